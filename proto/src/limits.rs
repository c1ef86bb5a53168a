//! Bounds that both ends of the wire hold each other to.

use std::time::Duration;

/// The largest message either side accepts, bytes. A host's whole inventory of some hundred targets
/// with ten revisions each stays below it; tonic's own default for decoding is the same.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// The longest order that is accepted, bytes. A real one has some 500.
pub const ORDER_BYTES: usize = 16 * 1024;

/// The longest free text (reason, problem, evidence) that is kept, bytes.
pub const TEXT_BYTES: usize = 2048;

/// Revisions that an agent keeps of one target, at most.
pub const REVISIONS_KEPT: usize = 100;

/// Revisions that an agent lists of one target, at most: what it keeps, and for a moment what it is about to let go of
/// or an order still needs.
pub const REVISIONS_LISTED: usize = REVISIONS_KEPT + 20;

/// Concurrent HTTP/2 streams on one connection.
pub const STREAMS_PER_CONNECTION: u32 = 64;

/// Interval of HTTP/2 pings on both ends; without them a silent partition is never seen.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a ping may stay unanswered before the connection is given up.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// From accepting a TCP connection to the end of its TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
