//! What two farcall processes must agree on, and nothing else: the protobuf messages of the rendezvous service,
//! the reasons its errors carry, its limits, the format of ephemeral TURN credentials,
//! and safety words.

pub mod limits;
pub mod reason;
pub mod safety_words;
pub mod turn_credentials;

/// The rendezvous protocol, generated from `proto/farcall/signaling/v1/`.
pub mod signaling {
    /// Package `farcall.signaling.v1`.
    #[allow(
        missing_docs,
        missing_debug_implementations,
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::pedantic,
        clippy::all,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("farcall.signaling.v1");
    }
}

/// What two peers say to each other, generated from `proto/farcall/peer/v1/`.
pub mod peer {
    /// Package `farcall.peer.v1`.
    #[allow(
        missing_docs,
        missing_debug_implementations,
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::pedantic,
        clippy::all,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("farcall.peer.v1");
    }
}

/// What the operator of a relay can see and do, generated from `proto/farcall/relay/v1/admin.proto`.
pub mod relay {
    /// Package `farcall.relay.v1`.
    #[allow(
        missing_docs,
        missing_debug_implementations,
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::pedantic,
        clippy::all,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("farcall.relay.v1");
    }
}

/// Every message and service above with what they import, as an encoded `FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn the_descriptor_set_names_the_services_and_their_imports() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let files: Vec<&str> = set.file.iter().map(|file| file.name()).collect();
        assert_eq!(
            files,
            [
                "google/protobuf/duration.proto",
                "google/protobuf/timestamp.proto",
                "farcall/signaling/v1/signaling.proto",
                "farcall/signaling/v1/admin.proto",
                "farcall/relay/v1/admin.proto",
                "farcall/peer/v1/transfer.proto"
            ]
        );
        let services: Vec<(&str, Vec<&str>)> = set
            .file
            .iter()
            .flat_map(|file| &file.service)
            .map(|service| (service.name(), service.method.iter().map(|method| method.name()).collect()))
            .collect();
        let admin = ["ListRooms", "GetRoom", "CloseRoom", "RemoveSession", "Drain", "GetStats"];
        let relay_admin = [
            "ListAllocations",
            "GetAllocation",
            "CloseAllocation",
            "CloseUser",
            "Drain",
            "GetStats",
            "GetConfig",
            "Reload",
        ];
        assert_eq!(
            services,
            [
                ("SignalingService", vec!["Join", "Send", "Leave", "GetIceServers"]),
                ("RoomAdminService", admin.to_vec()),
                ("RelayAdminService", relay_admin.to_vec())
            ]
        );
    }
}
