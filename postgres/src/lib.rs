//! Sessions, the replication connection and catalog questions
