//! What the agent keeps on disk: artifacts by their hash, and the revisions of each target. Folders 0700,
//! files 0600, every write in one piece and durable.

pub mod artifacts;
pub mod files;
pub mod gone;
pub mod history;
pub mod revisions;
