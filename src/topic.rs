//! Topic names: which ones to subscribe to, and what arrives on them.
