//! The key that updates are signed with (TSIG, RFC 8945), read from a file as BIND's `tsig-keygen` writes it.
//!
//! The secret is in the file and in the key that is made of it, and nowhere else: not in a message, not in `Debug`.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use domain::tsig::{self, Algorithm, KeyName};
use domain::utils::base64;
use irongate_deployment::configuration::Zone;

use super::failure::Failure;

/// No key file is larger, in bytes.
const LARGEST: u64 = 64 * 1024;

/// A key.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) key: Arc<tsig::Key>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Key {
    /// Reads a key. A file that others can read is refused.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let bad = |reason: String| Failure::Key { file: path.to_owned(), reason };
        let file = File::open(path).map_err(|error| bad(error.to_string()))?;
        let facts = file.metadata().map_err(|error| bad(error.to_string()))?;
        if let Some(reason) = Zone::key_file_problem(&facts) {
            return Err(bad(reason));
        }
        let mut text = String::new();
        // What the reader says of bytes that are no text has none of them in it.
        file.take(LARGEST).read_to_string(&mut text).map_err(|error| bad(error.to_string()))?;
        parse(&text).map_err(|reason| bad(reason.to_owned()))
    }
}

/// A word of the file, without its quotes; or one of `{`, `}` and `;`.
#[derive(PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(char),
}

fn tokens(text: &str) -> Result<Vec<Token>, &'static str> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '{' | '}' | ';' => {
                found.push(Token::Sign(first));
                &rest[1..]
            }
            '"' => {
                let (word, behind) = rest[1..].split_once('"').ok_or("a quote is not closed")?;
                found.push(Token::Word(word.to_owned()));
                behind
            }
            '#' => rest.split_once('\n').map_or("", |(_, behind)| behind),
            '/' if rest.starts_with("//") => rest.split_once('\n').map_or("", |(_, behind)| behind),
            '/' if rest.starts_with("/*") => rest.split_once("*/").ok_or("a comment is not closed")?.1,
            _ => {
                let ends = |c: char| c.is_whitespace() || matches!(c, '{' | '}' | ';' | '"' | '#');
                let (word, behind) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
                found.push(Token::Word(word.to_owned()));
                behind
            }
        }
        .trim_start();
    }
    Ok(found)
}

fn parse(text: &str) -> Result<Key, &'static str> {
    const SHAPE: &str = "it is not one of the form key \"name\" { algorithm hmac-sha256; secret \"…\"; };";
    let found = tokens(text)?;
    let word = |place: usize| match found.get(place) {
        Some(Token::Word(word)) => Ok(word.as_str()),
        _ => Err(SHAPE),
    };
    let sign = |place: usize, wanted: char| match found.get(place) {
        Some(Token::Sign(sign)) if *sign == wanted => Ok(()),
        _ => Err(SHAPE),
    };
    if word(0)? != "key" {
        return Err(SHAPE);
    }
    let name = word(1)?;
    sign(2, '{')?;
    let (mut algorithm, mut secret) = (None, None);
    let mut at = 3;
    while sign(at, '}').is_err() {
        let place = match word(at)? {
            "algorithm" => &mut algorithm,
            "secret" => &mut secret,
            _ => return Err(SHAPE),
        };
        *place = Some(word(at + 1)?);
        sign(at + 2, ';')?;
        at += 3;
    }
    if found.len() > at + 1 {
        sign(at + 1, ';')?;
    }
    if found.len() > at + 2 {
        return Err("it holds more than one key; give each zone a file with its own");
    }
    let (Some(algorithm), Some(secret)) = (algorithm, secret) else { return Err(SHAPE) };
    let algorithm = match algorithm.trim_end_matches('.').to_ascii_lowercase().as_str() {
        "hmac-sha256" => Algorithm::Sha256,
        "hmac-sha384" => Algorithm::Sha384,
        "hmac-sha512" => Algorithm::Sha512,
        _ => return Err("its algorithm is none of hmac-sha256, hmac-sha384 and hmac-sha512"),
    };
    let secret: Vec<u8> = base64::decode(secret).map_err(|_| "its secret is not base64")?;
    if secret.is_empty() {
        return Err("its secret is empty");
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let key_name: KeyName = name.parse().map_err(|_| "its name is no domain name")?;
    let key = tsig::Key::new(algorithm, &secret, key_name, None, None).map_err(|_| SHAPE)?;
    Ok(Key { name, key: Arc::new(key) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const GOOD: &str =
        "key \"Irongate-key.\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0IHNlY3JldA==\";\n};\n";

    #[test]
    fn a_key_is_read_as_tsig_keygen_writes_it_and_with_comments() {
        let key = parse(GOOD).unwrap();
        assert_eq!((key.name.as_str(), key.key.algorithm()), ("irongate-key", Algorithm::Sha256));
        assert!(!format!("{key:?}").contains("secret"));
        let other = "/* ours */ key k{ secret c2VjcmV0; // here\n algorithm \"HMAC-SHA512\"; } # end";
        assert_eq!(parse(other).unwrap().key.algorithm(), Algorithm::Sha512);
    }

    #[test]
    fn what_is_no_key_is_said_without_its_secret() {
        for (text, says) in [
            ("", "not one of the form"),
            ("key \"k\" { algorithm hmac-sha256; };", "not one of the form"),
            ("key \"k\" { algorithm hmac-sha256; secret \"c2Vj", "quote is not closed"),
            (&GOOD.replace("hmac-sha256", "hmac-md5"), "none of hmac-sha256"),
            (&GOOD.replace("c2VjcmV0IHNlY3JldA==", "no, not this"), "not base64"),
            (&GOOD.replace("c2VjcmV0IHNlY3JldA==", ""), "empty"),
            (&GOOD.repeat(2), "more than one key"),
            (&GOOD.replace("};", "}; x"), "more than one key"),
            (&GOOD.replace("secret", "sacred"), "not one of the form"),
            (&GOOD.replace("Irongate-key.", "a..b"), "no domain name"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(says) && !said.contains("c2Vj"), "{text}: {said}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.key");
        std::fs::write(&path, GOOD).unwrap();
        let with = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        with(0o644);
        let said = Key::read(&path).unwrap_err().to_string();
        assert!(said.contains("(0644) let others read it") && said.contains("names.key"), "{said}");
        with(0o600);
        assert_eq!(Key::read(&path).unwrap().name, "irongate-key");
        assert!(Key::read(dir.path()).unwrap_err().to_string().contains("not a plain file"));
        assert!(Key::read(&dir.path().join("none")).unwrap_err().to_string().contains("No such file"));
    }
}
