//! Keys, certificate signing requests and what can be read from certificates.
