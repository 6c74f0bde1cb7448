//! Where a process begins again: local store, checkpoint table, origins, watermarks
