//! The library of functions, under a name that changes with its text: nodes of different versions can share a server.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::link::Function;

pub(super) struct Library {
    name: String,
    code: String,
}

impl Library {
    pub(super) fn new() -> Self {
        let digest = Sha256::digest(SOURCE);
        let mut name = String::from("farcall_");
        for byte in digest.iter().take(8) {
            let _ = write!(name, "{byte:02x}");
        }
        let code = format!("#!lua name={name}\n{}", SOURCE.replace("@NAME@", &name));
        Self { name, code }
    }

    pub(super) fn code(&self) -> &str {
        &self.code
    }

    pub(super) fn function(&self, function: Function) -> String {
        format!("{}_{}", self.name, function.name())
    }
}

const SOURCE: &str = include_str!("functions.lua");
