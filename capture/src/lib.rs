//! Extract: logical decoding into a trail
