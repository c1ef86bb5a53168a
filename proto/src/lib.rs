//! The contract between controller, agents and operators: the wire format and what both ends need to
//! speak it (names, identities, orders, faults, settings, the mTLS channel). Depends on nothing else here.

pub mod address;
mod alert;
pub mod channel;
pub mod digest;
pub mod enrol;
pub mod fault;
pub mod field;
pub mod identity;
pub mod limits;
pub mod lineage;
pub mod name;
pub mod order;
#[cfg(feature = "service")]
pub mod service;
pub mod settings;
pub mod tls;
pub mod token;

/// The generated messages, clients and servers of package `sternway.v1`.
#[expect(
    clippy::pedantic,
    clippy::allow_attributes,
    unused_qualifications,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("sternway.v1");
}

/// The encoded `FileDescriptorSet` of package `sternway.v1`, for reflection and for the test that holds
/// the allow-list of RPCs against the contract.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
