//! farcc's own protobuf messages and services, generated from the `.proto` files beside this package.
//! REAPI's messages come from the crate `bazel-remote-apis`.

/// `farcc.record.v1`: what the daemon keeps about the commands that made a file.
#[expect(missing_docs, reason = "generated; the comments stand in the .proto file")]
pub mod record {
    include!(concat!(env!("OUT_DIR"), "/farcc.record.v1.rs"));
}

/// `farcc.twin.v1`: the protocol between a workstation and the machine on which its other commands run.
#[expect(missing_docs, reason = "generated; the comments stand in the .proto file")]
pub mod twin {
    include!(concat!(env!("OUT_DIR"), "/farcc.twin.v1.rs"));
}
