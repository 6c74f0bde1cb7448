//! The configuration file and what it describes: preflight, set-up, instantiate
