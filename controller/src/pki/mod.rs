//! The certificate authority: one root, and below it one authority for agents and one for operators and
//! controllers, so that neither kind of certificate can ever pass for the other.
//!
//! Every field of a certificate is set here. From a signing request the public key is taken and nothing
//! else: a request may ask for any name, or to be an authority.

mod authority;
mod files;
mod init;
mod issue;

pub use self::{
    authority::Authority,
    files::PkiError,
    init::{
        Database, InitError, Initialised, Issued, Keep, OperatorCredentials, init, issue_operator,
    },
    issue::{Lifetimes, issued_ms, public_key},
};
