//! What operators meet: one database at both sites, a flow whose turn it is not, another deployment beside, a passfile.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use irongate_deployment::{
    Configuration, Error, Event, Instantiate, Setup, check, instantiate, plan, setup, teardown,
};

use crate::server::{Server, pairs};
use crate::world::{PASSWORD, World, ignore};

const TABLES: &str = "CREATE TABLE a (id int PRIMARY KEY, t text)";
const FLOW: &str = "tables = [\"public.*\"]";

fn refs(pair: &(Server, Server)) -> (&Server, &Server) {
    (&pair.0, &pair.1)
}

/// The configuration of a world with its text changed.
fn changed(world: &World<'_>, change: impl Fn(&str) -> String) -> Configuration {
    let path = world.dir.path().join("irongate.toml");
    let text = change(&fs::read_to_string(&path).unwrap());
    Configuration::parse(&text, &path).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_database_at_both_sites_is_refused_by_whatever_address() {
    for pair in pairs() {
        let world = World::new(refs(pair), TABLES, FLOW).await;
        let (there, here) = (world.target.uri(&world.name), world.source.uri(&world.name));
        let same = changed(&world, |text| text.replace(&there, &format!("{here} connect_timeout=9")));
        let flow = same.flow(&world.name).unwrap();
        let before = world.traces(world.source).await;
        let refused = |error: Error| {
            assert!(matches!(error, Error::OwnSource { .. }), "{error}");
            assert!(!error.is_transient());
            let said = error.to_string();
            assert!(said.contains("db.a") && said.contains("db.b"), "both ends are named: {said}");
        };
        refused(plan(&same, &[flow]).await.unwrap_err());
        refused(setup(&same, &[flow], &Setup::default(), &mut ignore).await.unwrap_err());
        assert_eq!(world.traces(world.source).await, before, "nothing was changed");
        let findings = check(&same, &[flow]).await.unwrap();
        assert!(findings.iter().any(|finding| finding.reason.contains("its own source")), "{findings:?}");
        // Made for two databases and both directions; then somebody changes an address.
        let back = |text: &str| {
            let name = &world.name;
            format!("{text}[flows.{name}_back]\ndatabase = \"db\"\nfrom = \"b\"\nto = \"a\"\n{FLOW}\n")
        };
        let both = changed(&world, back);
        let flows: Vec<_> = both.flows.values().collect();
        setup(&both, &flows, &Setup::default(), &mut ignore).await.unwrap();
        let same = changed(&world, |text| back(&text.replace(&there, &here)));
        let flow = same.flow(&world.name).unwrap();
        refused(instantiate(&same, flow, &Instantiate::default(), &mut ignore).await.unwrap_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_for_a_reverse_flow_is_what_is_done() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    let both = changed(&world, |text| {
        format!(
            "{text}[flows.{}_back]\ndatabase = \"db\"\nfrom = \"b\"\nto = \"a\"\nautostart = false\n{FLOW}\n",
            world.name
        )
    });
    let flows: Vec<_> = both.flows.values().collect();
    let statements = plan(&both, &flows).await.unwrap();
    let slots: Vec<_> =
        statements.iter().filter(|statement| statement.sql.contains("create_logical")).collect();
    assert_eq!(slots.len(), 1, "{slots:?}");
    assert!(slots[0].site == "a" && slots[0].sql.contains(&world.flow().slot), "{slots:?}");
    setup(&both, &flows, &Setup::default(), &mut ignore).await.unwrap();
    assert_eq!(plan(&both, &flows).await.unwrap(), [], "and nothing is left to be printed");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_another_deployment_needs_stay_with_their_rights() {
    for pair in pairs() {
        let one = World::new(refs(pair), TABLES, FLOW).await;
        let other = World::new(refs(pair), TABLES, FLOW).await;
        // The same roles in both deployments, as where nobody names any.
        let shared = format!("{}_shared", one.name);
        let with_roles = |world: &World<'_>| {
            let mine = world.name.clone();
            changed(world, |text| {
                text.replace(&format!("{mine}_extract"), &format!("{shared}_e"))
                    .replace(&format!("{mine}_replicat"), &format!("{shared}_r"))
            })
        };
        let (first, second) = (with_roles(&one), with_roles(&other));
        let flow_of = |configuration: &Configuration, world: &World<'_>| {
            configuration.flow(&world.name).unwrap().clone()
        };
        let (flow, other_flow) = (flow_of(&first, &one), flow_of(&second, &other));
        setup(&first, &[&flow], &Setup::default(), &mut ignore).await.unwrap();
        setup(&second, &[&other_flow], &Setup::default(), &mut ignore).await.unwrap();
        let mut notes = Vec::new();
        let mut listen = |event: Event<'_>| {
            if let Event::Note(note) = event {
                notes.push(note);
            }
        };
        teardown(&first, &[&flow], &mut listen).await.unwrap();
        assert!(
            notes.iter().any(|note| note.contains(&format!("{shared}_r")) && note.contains(&other.name)),
            "{notes:?}"
        );
        // Nothing is lacking there.
        assert_eq!(plan(&second, &[&other_flow]).await.unwrap(), []);
        // Without another, they go, and what is left of them with them.
        teardown(&second, &[&other_flow], &mut ignore).await.unwrap_or_else(|error| panic!("{error}"));
        let schema = one.ask_target("SELECT count(*) FROM pg_namespace WHERE nspname = 'irongate'").await;
        assert_eq!(schema, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_get_the_passwords_of_the_passfile() {
    let world = World::new(refs(&pairs()[0]), TABLES, FLOW).await;
    let passfile = world.dir.path().join("passfile");
    fs::write(&passfile, format!("*:*:{}:*:{PASSWORD}\n", world.name)).unwrap();
    let with =
        changed(&world, |text| text.replace("password_file = \"password\"", "passfile = \"passfile\""));
    let flow = with.flow(&world.name).unwrap();
    // One that others can read is refused before anything is made.
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o644)).unwrap();
    let error = setup(&with, &[flow], &Setup::default(), &mut ignore).await.unwrap_err();
    assert!(error.to_string().contains("0644") && !error.to_string().contains(PASSWORD), "{error}");
    let findings = check(&with, &[flow]).await.unwrap();
    assert!(findings.iter().any(|finding| finding.object.contains("passfile")), "{findings:?}");
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
    let statements = plan(&with, &[flow]).await.unwrap();
    assert!(!format!("{statements:?}").contains(PASSWORD));
    let report = setup(&with, &[flow], &Setup::default(), &mut ignore).await.unwrap();
    assert_eq!(report.started.len(), 1, "its roles get in");
    instantiate(&with, flow, &Instantiate::default(), &mut ignore).await.unwrap();
    assert_eq!(plan(&with, &[flow]).await.unwrap(), []);
}
