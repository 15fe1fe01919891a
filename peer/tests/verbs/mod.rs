//! The verbs that carry something between two processes.

mod channels;
mod files;
mod streams;
