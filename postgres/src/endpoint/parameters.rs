//! The parameters of an address (PostgreSQL manual, "Parameter Key Words") and what they mean here.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::uri::{self, Parameters};
use super::{DEFAULT_SOCKET_DIRECTORY, Endpoint, Host, PasswordSources};
use crate::error::Error;

/// The limit of an attempt to connect where the address gives none. libpq waits for ever, which no process that is
/// supervised should.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Quiet time before the first TCP keepalive probe where the address gives none. The system's two hours would leave
/// a slot without a reader for as long.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(30);
/// Time between probes.
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(10);
/// Probes without an answer before the connection counts as dead.
const KEEPALIVES_COUNT: u32 = 3;
/// Time that sent data may stay unacknowledged.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

macro_rules! choice {
    ($(#[$doc:meta])* $visibility:vis $name:ident, $parameter:literal: $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $visibility enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        #[allow(dead_code, reason = "not every choice is printed")]
        impl $name {
            fn parse(value: &str) -> Result<Self, Error> {
                match value {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(Error::invalid_with(
                        format!("\"{value}\" is no value of \"{}\"", $parameter),
                        format!("use one of: {}", [$($text),+].join(", ")),
                    )),
                }
            }

            /// The value as the address spells it.
            $visibility fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }
    };
}

choice! {
    /// What is demanded of TLS (PostgreSQL manual, "SSL Support").
    pub SslMode, "sslmode":
    /// No TLS.
    Disable = "disable",
    /// Without TLS, and with it if the server refuses that.
    Allow = "allow",
    /// With TLS, and without it if that fails. The default.
    Prefer = "prefer",
    /// Only with TLS. The server's certificate is checked as with `verify-ca` if there is a root certificate.
    Require = "require",
    /// Only with TLS and a certificate that a trusted authority has signed.
    VerifyCa = "verify-ca",
    /// As `verify-ca`, and the certificate names the host.
    VerifyFull = "verify-full",
}

choice! {
    /// What a server must be (PostgreSQL manual, `target_session_attrs`).
    pub TargetSessionAttrs, "target_session_attrs":
    /// Anything.
    Any = "any",
    /// Sessions are writable: no hot standby, and not read-only by default.
    ReadWrite = "read-write",
    /// Sessions are not writable.
    ReadOnly = "read-only",
    /// Not in hot standby.
    Primary = "primary",
    /// In hot standby.
    Standby = "standby",
    /// In hot standby; anything if no host is.
    PreferStandby = "prefer-standby",
}

choice! {
    /// Whether SCRAM must bind to the TLS channel.
    pub ChannelBinding, "channel_binding":
    /// Never.
    Disable = "disable",
    /// If both sides can. The default.
    Prefer = "prefer",
    /// Authentication fails without it.
    Require = "require",
}

choice! {
    /// How TLS begins.
    pub(crate) Negotiation, "sslnegotiation":
    /// With a request and an answer in the clear.
    Postgres = "postgres",
    /// At once (servers from 17).
    Direct = "direct",
}

choice! {
    /// The least TLS version that is accepted.
    pub(crate) TlsVersion, "ssl_min_protocol_version":
    Tls12 = "TLSv1.2",
    Tls13 = "TLSv1.3",
}

/// Which authorities are trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum RootCertificates {
    /// `~/.postgresql/root.crt`, if it is there.
    Default,
    /// Those that the operating system trusts.
    System,
    /// Those in a file.
    File(PathBuf),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TlsSettings {
    pub(crate) mode: SslMode,
    pub(crate) negotiation: Negotiation,
    pub(crate) least_version: TlsVersion,
    pub(crate) roots: RootCertificates,
    pub(crate) revoked: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) sni: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TcpSettings {
    pub(crate) keepalives: bool,
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) count: u32,
    pub(crate) user_timeout: Option<Duration>,
}

/// Makes an endpoint of parameters.
pub(super) fn endpoint(parameters: Parameters) -> Result<Endpoint, Error> {
    let (mut hosts, mut addresses, mut ports) = (String::new(), String::new(), String::new());
    let (mut user, mut database) = (String::new(), String::new());
    let mut mode = None;
    let mut fallback_name = None;
    let mut endpoint = Endpoint {
        hosts: Vec::new(),
        user: String::new(),
        database: String::new(),
        application_name: None,
        options: None,
        tls: TlsSettings {
            mode: SslMode::Prefer,
            negotiation: Negotiation::Postgres,
            least_version: TlsVersion::Tls12,
            roots: RootCertificates::Default,
            revoked: None,
            certificate: None,
            key: None,
            sni: true,
        },
        channel_binding: ChannelBinding::Prefer,
        target: TargetSessionAttrs::Any,
        connect_timeout: Some(CONNECT_TIMEOUT),
        tcp: TcpSettings {
            keepalives: true,
            idle: KEEPALIVES_IDLE,
            interval: KEEPALIVES_INTERVAL,
            count: KEEPALIVES_COUNT,
            user_timeout: Some(TCP_USER_TIMEOUT),
        },
        shuffle: false,
        passwords: PasswordSources::default(),
    };
    for (name, value) in parameters {
        match name.as_str() {
            "password" | "sslpassword" if value.is_empty() => {}
            "password" => return Err(uri::password_refused()),
            // An empty value is libpq's "use the default".
            "host" => hosts = value,
            "hostaddr" => addresses = value,
            "port" => ports = value,
            _ if value.is_empty() => {}
            "user" => user = value,
            "dbname" => database = value,
            "application_name" => endpoint.application_name = Some(value),
            "fallback_application_name" => fallback_name = Some(value),
            "options" => endpoint.options = Some(value),
            "passfile" => endpoint.passwords.passfile = Some(value.into()),
            "connect_timeout" => endpoint.connect_timeout = seconds(&name, &value)?,
            "sslmode" => mode = Some(SslMode::parse(&value)?),
            "sslnegotiation" => endpoint.tls.negotiation = Negotiation::parse(&value)?,
            "ssl_min_protocol_version" => endpoint.tls.least_version = least_version(&value)?,
            "sslrootcert" if value == "system" => endpoint.tls.roots = RootCertificates::System,
            "sslrootcert" => endpoint.tls.roots = RootCertificates::File(value.into()),
            "sslcrl" => endpoint.tls.revoked = Some(value.into()),
            "sslcert" => endpoint.tls.certificate = Some(value.into()),
            "sslkey" => endpoint.tls.key = Some(value.into()),
            "sslsni" => endpoint.tls.sni = flag(&name, &value)?,
            "sslpassword" => {
                return Err(Error::invalid_with(
                    "\"sslpassword\" is a secret in an address",
                    "store the key of the client certificate unencrypted, readable by its owner alone",
                ));
            }
            "channel_binding" => endpoint.channel_binding = ChannelBinding::parse(&value)?,
            "target_session_attrs" => endpoint.target = TargetSessionAttrs::parse(&value)?,
            "load_balance_hosts" => {
                endpoint.shuffle = match value.as_str() {
                    "disable" => false,
                    "random" => true,
                    _ => {
                        return Err(Error::invalid(
                            "\"load_balance_hosts\" is neither \"disable\" nor \"random\"",
                        ));
                    }
                }
            }
            "keepalives" => endpoint.tcp.keepalives = flag(&name, &value)?,
            "keepalives_idle" => endpoint.tcp.idle = seconds(&name, &value)?.unwrap_or(KEEPALIVES_IDLE),
            "keepalives_interval" => {
                endpoint.tcp.interval = seconds(&name, &value)?.unwrap_or(KEEPALIVES_INTERVAL)
            }
            "keepalives_count" => match number(&name, &value)? {
                0 => {}
                count => endpoint.tcp.count = count,
            },
            "tcp_user_timeout" => {
                endpoint.tcp.user_timeout = match number(&name, &value)? {
                    0 => None,
                    millis => Some(Duration::from_millis(millis.into())),
                }
            }
            // What asks for nothing that is not the case anyway.
            "gssencmode" if matches!(value.as_str(), "disable" | "prefer") => {}
            "sslcompression" if value == "0" => {}
            "client_encoding"
                if matches!(value.to_ascii_lowercase().as_str(), "utf8" | "utf-8" | "unicode") => {}
            _ => {
                return Err(Error::invalid_with(
                    format!("parameter \"{name}\" is not known, or not with this value"),
                    "see \"Parameter Key Words\" in the PostgreSQL manual; services, GSSAPI and \"replication\" are \
                     not supported",
                ));
            }
        }
    }
    if user.is_empty() {
        return Err(Error::invalid_with("it names no role", "write postgresql://role@host:port/database"));
    }
    if endpoint.application_name.is_none() {
        endpoint.application_name = fallback_name;
    }
    endpoint.tls.mode = ssl_mode(mode, &endpoint.tls)?;
    endpoint.hosts = host_list(&hosts, &addresses, &ports)?;
    endpoint.database = if database.is_empty() { user.clone() } else { database };
    endpoint.user = user;
    Ok(endpoint)
}

/// The mode that is meant, which other parameters restrict as in libpq.
fn ssl_mode(given: Option<SslMode>, tls: &TlsSettings) -> Result<SslMode, Error> {
    if tls.roots == RootCertificates::System {
        // Anybody can have a certificate from a public authority: without the host's name it proves nothing.
        return match given {
            None | Some(SslMode::VerifyFull) => Ok(SslMode::VerifyFull),
            Some(weak) => Err(Error::invalid_with(
                format!("sslmode \"{}\" is too weak for sslrootcert \"system\"", weak.as_str()),
                "use sslmode=verify-full",
            )),
        };
    }
    let mode = given.unwrap_or(SslMode::Prefer);
    if tls.negotiation == Negotiation::Direct
        && matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer)
    {
        return Err(Error::invalid_with(
            format!("sslmode \"{}\" is too weak for sslnegotiation \"direct\"", mode.as_str()),
            "use sslmode=require, verify-ca or verify-full",
        ));
    }
    Ok(mode)
}

fn host_list(hosts: &str, addresses: &str, ports: &str) -> Result<Vec<Host>, Error> {
    let list = |text: &str| -> Vec<String> {
        if text.is_empty() {
            Vec::new()
        } else {
            text.split(',').map(|part| part.trim().to_owned()).collect()
        }
    };
    let (hosts, addresses, ports) = (list(hosts), list(addresses), list(ports));
    let count = hosts.len().max(addresses.len()).max(1);
    if !addresses.is_empty() && !hosts.is_empty() && hosts.len() != addresses.len() {
        return Err(Error::invalid("\"host\" and \"hostaddr\" list different numbers of hosts"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(Error::invalid("the numbers of hosts and ports differ"));
    }
    let mut all = Vec::with_capacity(count);
    for i in 0..count {
        let port = match ports.get(i).or(if ports.len() == 1 { ports.first() } else { None }) {
            Some(port) if !port.is_empty() => {
                port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
                    Error::invalid(format!("the port of host {} is not a number from 1 to 65535", i + 1))
                })?
            }
            _ => 5432,
        };
        let name = hosts.get(i).map(String::as_str).unwrap_or_default();
        let address = match addresses.get(i).map(String::as_str).unwrap_or_default() {
            "" => None,
            text => Some(text.parse::<IpAddr>().map_err(|_| {
                Error::invalid(format!("\"hostaddr\" of host {} is not an IP address", i + 1))
            })?),
        };
        all.push(match (name, address) {
            ("", None) => Host::Unix { directory: DEFAULT_SOCKET_DIRECTORY.into(), port },
            ("", Some(address)) => Host::Tcp { name: address.to_string(), address: Some(address), port },
            (path, None) if path.starts_with('/') => Host::Unix { directory: path.into(), port },
            (name, address) => Host::Tcp { name: name.to_owned(), address, port },
        });
    }
    Ok(all)
}

fn number(name: &str, value: &str) -> Result<u32, Error> {
    value.trim().parse().map_err(|_| Error::invalid(format!("\"{name}\" is not a whole number")))
}

/// Zero is "none" in libpq, and so is what is below.
fn seconds(name: &str, value: &str) -> Result<Option<Duration>, Error> {
    if value.trim().starts_with('-') {
        return Ok(None);
    }
    Ok(match number(name, value)? {
        0 => None,
        seconds => Some(Duration::from_secs(seconds.into())),
    })
}

fn flag(name: &str, value: &str) -> Result<bool, Error> {
    Ok(number(name, value)? != 0)
}

/// Versions before 1.2 may be named as the least, and are never used.
fn least_version(value: &str) -> Result<TlsVersion, Error> {
    match value {
        "TLSv1" | "TLSv1.1" => Ok(TlsVersion::Tls12),
        _ => TlsVersion::parse(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Endpoint {
        Endpoint::parse(text).unwrap()
    }

    #[test]
    fn hosts_ports_and_defaults_come_out_as_libpq_has_them() {
        let endpoint = parsed("postgresql://u@h1:5433,h2,[::1]:5434/db");
        let shown: Vec<String> = endpoint.hosts().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["h1:5433", "h2:5432", "[::1]:5434"]);
        assert_eq!(endpoint.ssl_mode(), SslMode::Prefer);
        assert_eq!(endpoint.connect_timeout(), Some(Duration::from_secs(10)));
        assert_eq!(endpoint.to_string(), "postgresql://u@h1:5433,h2:5432,[::1]:5434/db");

        let endpoint = parsed("host=a,b port=6000 user=u");
        assert_eq!(endpoint.hosts()[1].port(), 6000);
        assert_eq!(endpoint.database(), "u");

        let endpoint = parsed("postgresql://u@%2Ftmp%2Fs:5433/db");
        assert_eq!(endpoint.hosts()[0].socket_path().unwrap(), PathBuf::from("/tmp/s/.s.PGSQL.5433"));
        assert_eq!(parsed(&endpoint.to_string()), endpoint);

        let endpoint = parsed("postgresql://u@name/db?hostaddr=127.0.0.1");
        assert_eq!(
            endpoint.hosts()[0],
            Host::Tcp { name: "name".into(), address: Some("127.0.0.1".parse().unwrap()), port: 5432 }
        );
        assert!(matches!(parsed("user=u").hosts()[0], Host::Unix { .. }));
    }

    #[test]
    fn every_parameter_arrives() {
        let endpoint = parsed(
            "postgresql://u@h/db?sslmode=verify-full&sslrootcert=/ca&sslcert=/c&sslkey=/k&sslcrl=/l&passfile=/p&\
             channel_binding=require&target_session_attrs=prefer-standby&connect_timeout=3&keepalives=0&\
             keepalives_idle=4&keepalives_interval=5&keepalives_count=6&tcp_user_timeout=7&application_name=n&\
             options=-c%20geqo%3Doff&load_balance_hosts=random&ssl_min_protocol_version=TLSv1.3&sslsni=0",
        );
        assert_eq!(
            endpoint.tls,
            TlsSettings {
                mode: SslMode::VerifyFull,
                negotiation: Negotiation::Postgres,
                least_version: TlsVersion::Tls13,
                roots: RootCertificates::File("/ca".into()),
                revoked: Some("/l".into()),
                certificate: Some("/c".into()),
                key: Some("/k".into()),
                sni: false,
            }
        );
        assert_eq!(
            endpoint.tcp,
            TcpSettings {
                keepalives: false,
                idle: Duration::from_secs(4),
                interval: Duration::from_secs(5),
                count: 6,
                user_timeout: Some(Duration::from_millis(7)),
            }
        );
        assert_eq!(endpoint.passwords.passfile, Some("/p".into()));
        assert_eq!(endpoint.channel_binding, ChannelBinding::Require);
        assert_eq!(endpoint.target, TargetSessionAttrs::PreferStandby);
        assert_eq!(endpoint.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(endpoint.application_name.as_deref(), Some("n"));
        assert_eq!(endpoint.options.as_deref(), Some("-c geqo=off"));
        assert!(endpoint.shuffle);
        assert_eq!(parsed("postgresql://u@h/db?connect_timeout=0").connect_timeout, None);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_a_remedy() {
        for (text, word) in [
            ("postgresql://h/db", "role"),
            ("postgresql://u@h/db?password=s3cret", "password"),
            ("user=u password=s3cret", "password"),
            ("postgresql://u@h/db?sslpassword=s3cret", "sslpassword"),
            ("postgresql://u@h/db?sslmode=maybe", "sslmode"),
            ("postgresql://u@h/db?nonsense=s3cret", "nonsense"),
            ("postgresql://u@h/db?replication=database", "replication"),
            ("postgresql://u@h/db?sslrootcert=system&sslmode=require", "too weak"),
            ("postgresql://u@h/db?sslnegotiation=direct", "too weak"),
        ] {
            let error = Endpoint::parse(text).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert!(error.hint().is_some(), "{error}");
            assert!(!format!("{error:?}").contains("s3cret"));
            assert!(!error.is_transient());
        }
        for text in [
            "postgresql://u@h:0/db",
            "postgresql://u@h:70000/db",
            "postgresql://u@h/db?port=1,2",
            "postgresql://u@h/db?hostaddr=name",
            "postgresql://u@h/db?connect_timeout=soon",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
        assert_eq!(parsed("postgresql://u@h/db?sslrootcert=system").ssl_mode(), SslMode::VerifyFull);
    }
}
