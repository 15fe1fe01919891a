//! The fuzz bodies over their committed corpora.
