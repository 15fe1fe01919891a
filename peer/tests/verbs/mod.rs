//! The verbs that carry something between two processes.

mod files;
