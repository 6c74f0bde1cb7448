//! What a SQLSTATE tells beside its message (PostgreSQL manual, "PostgreSQL Error Codes").

/// Whether the same statement may succeed later, unchanged.
pub(crate) fn is_transient(code: &str) -> bool {
    match code {
        // Shut down or crashed by somebody, or not up yet.
        "57P01" | "57P02" | "57P03" | "57P05" => true,
        // Cancelled by somebody or by a time limit.
        "57014" => true,
        // Serialization failure, deadlock, lock not available, transaction ended by a timeout.
        "40001" | "40P01" | "55P03" | "25P03" | "25P04" => true,
        // The object is in use: a slot held by a walsender that has not noticed its client's end, a database being
        // copied.
        "55006" => true,
        // A protocol violation stays one.
        "08P01" => false,
        _ => matches!(code.get(..2), Some("08" | "53")),
    }
}

/// Whether the main message of this class can quote a value of a row.
pub(crate) fn message_quotes_values(code: &str) -> bool {
    matches!(code.get(..2), Some("22"))
}

/// Whether the message is written by the database's own code (RAISE in a trigger or function), so that nothing is
/// known about what it quotes.
pub(crate) fn message_is_users_own(code: &str) -> bool {
    // Every condition a server raises by itself begins with one of these classes.
    const OF_THE_SERVER: [&str; 40] = [
        "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24",
        "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53",
        "54", "55", "57", "58", "F0", "XX",
    ];
    !code.get(..2).is_some_and(|class| OF_THE_SERVER.contains(&class))
}

/// Whether detail and hint of this class speak about the server and never quote a row.
pub(crate) fn detail_is_safe(code: &str) -> bool {
    matches!(
        code.get(..2),
        Some("08" | "0A" | "25" | "28" | "3D" | "3F" | "40" | "42" | "53" | "54" | "55" | "57" | "58" | "F0")
    )
}

/// A few words for a class whose message cannot be shown.
pub(crate) fn class_in_words(code: &str) -> &'static str {
    match code.get(..2) {
        Some("22") => "data exception",
        Some("23") => "integrity constraint violation",
        _ => "error raised by a function or trigger of the database",
    }
}
