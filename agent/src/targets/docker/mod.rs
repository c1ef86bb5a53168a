//! Plain Docker containers. What a person asked for when a container was created is its revision; a
//! restore creates it again.

pub mod client;
pub mod labels;
pub mod normalise;
pub mod record;
pub mod recreate;
