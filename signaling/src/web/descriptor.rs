//! The protocol in JSON, as far as a browser needs it: the methods of the service, every message and enumeration they
//! lead to, and the details of its errors. Made from the descriptors that reflection serves.

use std::collections::BTreeMap;

use anyhow::Context;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value, json};

/// `{"methods": {…}, "messages": {…}, "enums": {…}}`.
pub(super) fn json() -> anyhow::Result<String> {
    let ours = FileDescriptorSet::decode(farcall_proto::FILE_DESCRIPTOR_SET)?;
    let errors = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)?;
    let known = Known::of(ours.file.iter().chain(&errors.file));

    let services =
        ours.file.iter().flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
    let (package, service) = services
        .into_iter()
        .find(|(package, service)| (*package, service.name()) == (PACKAGE, SERVICE))
        .context("the descriptors do not name the service")?;
    let mut methods = Map::new();
    let mut reached = Reached { known: &known, messages: Map::new(), enums: Map::new() };
    for method in &service.method {
        reached.message(method.input_type())?;
        reached.message(method.output_type())?;
        methods.insert(
            method.name().to_owned(),
            json!({
                "path": format!("/{package}.{SERVICE}/{}", method.name()),
                "input": bare(method.input_type()),
                "output": bare(method.output_type()),
                "stream": method.server_streaming(),
            }),
        );
    }
    for root in ERRORS {
        reached.message(root)?;
    }
    let Reached { messages, enums, .. } = reached;
    Ok(json!({ "methods": methods, "messages": messages, "enums": enums }).to_string())
}

/// By full name, with a dot before it as references have.
struct Known<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
}

impl<'a> Known<'a> {
    fn of(files: impl Iterator<Item = &'a prost_types::FileDescriptorProto>) -> Self {
        let mut known = Self { messages: BTreeMap::new(), enums: BTreeMap::new() };
        for file in files {
            let scope = format!(".{}", file.package());
            known.take(&scope, &file.message_type, &file.enum_type);
        }
        known
    }

    fn take(&mut self, scope: &str, messages: &'a [DescriptorProto], enums: &'a [EnumDescriptorProto]) {
        for one in enums {
            self.enums.insert(format!("{scope}.{}", one.name()), one);
        }
        for message in messages {
            let name = format!("{scope}.{}", message.name());
            self.take(&name, &message.nested_type, &message.enum_type);
            self.messages.insert(name, message);
        }
    }
}

struct Reached<'a> {
    known: &'a Known<'a>,
    messages: Map<String, Value>,
    enums: Map<String, Value>,
}

impl Reached<'_> {
    fn message(&mut self, name: &str) -> anyhow::Result<()> {
        if self.messages.contains_key(bare(name)) {
            return Ok(());
        }
        let message = *self.known.messages.get(name).with_context(|| format!("{name} is not described"))?;
        self.messages.insert(bare(name).to_owned(), Value::Null);
        let mut fields = Vec::new();
        for field in &message.field {
            if field.r#type() == Type::Message {
                self.message(field.type_name())?;
            } else if field.r#type() == Type::Enum {
                self.enumeration(field.type_name())?;
            }
            fields.push(describe(field, message));
        }
        self.messages.insert(bare(name).to_owned(), fields.into());
        Ok(())
    }

    fn enumeration(&mut self, name: &str) -> anyhow::Result<()> {
        let one = *self.known.enums.get(name).with_context(|| format!("{name} is not described"))?;
        let values = one.value.iter().map(|value| (value.name().to_owned(), value.number().into())).collect();
        self.enums.insert(bare(name).to_owned(), Value::Object(values));
        Ok(())
    }
}

fn describe(field: &FieldDescriptorProto, message: &DescriptorProto) -> Value {
    let kind = field.r#type().as_str_name().trim_start_matches("TYPE_").to_ascii_lowercase();
    let mut described = Map::new();
    let mut say = |key: &str, value: Value| described.insert(key.to_owned(), value);
    say("name", field.json_name().into());
    say("number", field.number().into());
    say("type", kind.into());
    if field.label() == Label::Repeated {
        say("repeated", true.into());
    }
    if !field.type_name().is_empty() {
        say("of", bare(field.type_name()).into());
    }
    let choice = field.oneof_index.and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?));
    if field.proto3_optional() {
        say("optional", true.into());
    } else if let Some(choice) = choice {
        say("oneof", choice.name().into());
    }
    described.into()
}

fn bare(name: &str) -> &str {
    name.trim_start_matches('.')
}

const PACKAGE: &str = "farcall.signaling.v1";
const SERVICE: &str = "SignalingService";
/// What a status and its details are made of.
const ERRORS: [&str; 5] = [
    ".google.rpc.Status",
    ".google.rpc.ErrorInfo",
    ".google.rpc.RetryInfo",
    ".google.rpc.BadRequest",
    ".google.rpc.QuotaFailure",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_can_read_from_it_what_it_needs() {
        let all: Value = serde_json::from_str(&json().unwrap()).unwrap();
        assert_eq!(
            all["methods"]["Join"],
            json!({
                "path": "/farcall.signaling.v1.SignalingService/Join",
                "input": "farcall.signaling.v1.JoinRequest",
                "output": "farcall.signaling.v1.JoinResponse",
                "stream": true,
            })
        );
        let field = |message: &str, name: &str| {
            let fields = all["messages"][message].as_array().unwrap_or_else(|| panic!("no {message}"));
            fields.iter().find(|field| field["name"] == name).cloned().unwrap_or_else(|| panic!("no {name}"))
        };
        assert_eq!(
            field("farcall.signaling.v1.SendRequest", "frames"),
            json!({"name": "frames", "number": 3, "type": "message", "repeated": true,
                   "of": "farcall.signaling.v1.ClientFrame"})
        );
        assert_eq!(
            field("farcall.signaling.v1.PeerMessage", "text"),
            json!({"name": "text", "number": 6, "type": "string", "oneof": "payload"})
        );
        assert_eq!(
            field("farcall.signaling.v1.IceCandidate", "sdpMLineIndex"),
            json!({"name": "sdpMLineIndex", "number": 3, "type": "uint32", "optional": true})
        );
        assert_eq!(
            all["enums"]["farcall.signaling.v1.SessionDescriptionType"]["SESSION_DESCRIPTION_TYPE_OFFER"],
            1
        );
        assert_eq!(field("google.rpc.ErrorInfo", "reason")["number"], 1);
        assert_eq!(field("google.rpc.RetryInfo", "retryDelay")["of"], "google.protobuf.Duration");
    }

    #[test]
    fn nothing_that_a_page_has_no_business_with_is_in_it() {
        assert!(!json().unwrap().to_ascii_lowercase().contains("admin"));
    }
}
