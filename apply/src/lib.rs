//! Replicat: a trail into a target database, exactly once
