//! Arrays as the server prints them: `{1,NULL,"a b"}`, nested in as many dimensions as there are, with other lower bounds
//! than 1 before (PostgreSQL manual, "Array Input and Output Syntax").

/// One step through an array's text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// `{`
    Open,
    /// `}`
    Close,
    /// An element that is NULL.
    Null,
    /// An element's text.
    Value(String),
}

/// The steps through an array's text; `None` for a text that is no array. `delimiter` is `,` for every built-in type but
/// `box`.
pub(super) fn steps(text: &str, delimiter: u8) -> Option<Vec<Step>> {
    // Bounds such as [0:1][2:3]= say nothing that JSON could.
    let text = if text.starts_with('[') { text.split_once("]=")?.1 } else { text };
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut found) = (0, 0_usize, Vec::new());
    // Whether a value may come, or else a delimiter or an end.
    let mut wants_value = true;
    while let Some(&byte) = bytes.get(at) {
        if depth == 0 && !found.is_empty() {
            return None;
        }
        match byte {
            b'{' if wants_value => {
                found.push(Step::Open);
                (depth, at) = (depth + 1, at + 1);
            }
            b'}' if depth > 0 && (!wants_value || found.last() == Some(&Step::Open)) => {
                found.push(Step::Close);
                (depth, at, wants_value) = (depth - 1, at + 1, false);
            }
            _ if depth == 0 => return None,
            byte if byte == delimiter && !wants_value => (at, wants_value) = (at + 1, true),
            b'"' if wants_value => {
                let mut value = Vec::new();
                at += 1;
                loop {
                    match bytes.get(at)? {
                        b'"' => break,
                        b'\\' => {
                            value.push(*bytes.get(at + 1)?);
                            at += 2;
                        }
                        byte => {
                            value.push(*byte);
                            at += 1;
                        }
                    }
                }
                found.push(Step::Value(String::from_utf8(value).ok()?));
                (at, wants_value) = (at + 1, false);
            }
            _ if wants_value => {
                let rest = &text[at..];
                let end = rest.find(|c: char| c == '}' || c == char::from(delimiter))?;
                let value = &rest[..end];
                if value.is_empty() || value.contains(['{', '"']) {
                    return None;
                }
                found.push(if value.eq_ignore_ascii_case("null") {
                    Step::Null
                } else {
                    Step::Value(value.to_owned())
                });
                (at, wants_value) = (at + end, false);
            }
            _ => return None,
        }
    }
    (depth == 0 && !found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let Some(steps) = steps(text, b',') else { return "none".to_owned() };
        let one = |step: &Step| match step {
            Step::Open => "(".to_owned(),
            Step::Close => ")".to_owned(),
            Step::Null => "~".to_owned(),
            Step::Value(value) => format!("<{value}>"),
        };
        steps.iter().map(one).collect()
    }

    #[test]
    fn an_array_is_taken_apart() {
        for (text, expected) in [
            ("{}", "()"),
            ("{1,NULL,3}", "(<1>~<3>)"),
            (r#"{a,"b c",NULL,"NULL","q\"x\\",""}"#, r#"(<a><b c>~<NULL><q"x\><>)"#),
            ("{{1,2},{3,4}}", "((<1><2>)(<3><4>))"),
            ("[0:1]={1,2}", "(<1><2>)"),
            ("{ä,ö}", "(<ä><ö>)"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        for bad in
            ["", "1", "{", "{1", "{1}}", "{1}x", "{\"a}", "{1,}", "{,1}", "{1 {2}", "[0:1]", "{}{}", "happy"]
        {
            assert_eq!(shown(bad), "none", "{bad}");
        }
        let boxes = steps("{(1,1),(0,0);(2,2),(1,1)}", b';').unwrap();
        assert_eq!(boxes[1], Step::Value("(1,1),(0,0)".to_owned()));
    }
}
