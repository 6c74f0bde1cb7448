//! What is renamed, changes hands, is made anew or dropped behind a fence.

use std::time::Duration;

use irongate_switchover::Place;
use irongate_switchover::fence::{close, open};
use irongate_tests::Server;

use super::fence::{STATE, database, quickly};

/// Renames everything that a fence has saved something of.
const RENAMED: &str =
    "ALTER TABLE odd.\"Ta ble\" RENAME TO renamed; ALTER TABLE odd.renamed RENAME word TO wort;
    ALTER TRIGGER always ON odd.renamed RENAME TO ever; ALTER ROLE other RENAME TO another;
    ALTER ROLE batch RENAME TO batches; CREATE ROLE heir; GRANT CREATE ON SCHEMA odd TO heir;
    ALTER TABLE odd.part OWNER TO heir; ALTER TABLE odd.part_1 OWNER TO heir";

#[tokio::test]
async fn what_is_renamed_behind_a_fence_gets_its_rights_back() {
    for major in Server::majors() {
        let (server, mut configuration) = database(major).await;
        // What there would be without a fence.
        server.create_database("model TEMPLATE shop").await;
        let place = Place::connect(&configuration, "shop", "main").await.unwrap();
        close(&place, &quickly()).await.unwrap();
        server.batch_in("shop", RENAMED).await;
        // Closed once more in between, by a configuration that knows the new names.
        configuration.access.get_mut("shop").unwrap().roles = vec!["app".to_owned(), "batches".to_owned()];
        let place = Place::connect(&configuration, "shop", "main").await.unwrap();
        close(&place, &quickly()).await.unwrap();
        let opened = open(&place, Duration::from_secs(1)).await.unwrap().unwrap();
        assert_eq!((opened.gone.len(), opened.logins), (0, 2), "{opened:?}");
        // The roles are the server's, and have their new names already.
        let renamed: Vec<&str> = RENAMED
            .split(';')
            .map(str::trim)
            .filter(|sql| !sql.contains("ROLE") && !sql.contains("GRANT"))
            .collect();
        server.batch_in("model", "GRANT CREATE ON SCHEMA odd TO heir").await;
        server.batch_in("model", &renamed.join("; ")).await;
        let database = "db ";
        let of = async |name: &str| -> Vec<String> {
            let state = server.scalar(name, STATE).await;
            // The model's own list of rights was never taken from it.
            state.lines().filter(|line| !line.starts_with(database)).map(str::to_owned).collect()
        };
        assert_eq!(of("shop").await, of("model").await);
    }
}

#[tokio::test]
async fn what_is_gone_is_told_and_what_was_made_anew_goes_by_its_name() {
    let (server, configuration) = database(Server::majors()[0]).await;
    let place = Place::connect(&configuration, "shop", "main").await.unwrap();
    let before = server.scalar("shop", STATE).await;
    close(&place, &quickly()).await.unwrap();
    server
        .batch_in(
            "shop",
            "DROP VIEW odd.seen; ALTER TABLE odd.\"Ta ble\" DROP word; REASSIGN OWNED BY other TO owner; DROP OWNED BY other;
             DROP ROLE other; DROP TRIGGER plain ON odd.\"Ta ble\";
             DROP TABLE odd.part; SET ROLE owner; CREATE TABLE odd.part (id int, word text)",
        )
        .await;
    let opened = open(&place, Duration::from_secs(1)).await.unwrap().unwrap();
    assert_eq!(
        opened.gone,
        [
            "column \"word\" of table odd.Ta ble",
            "role \"other\"",
            "table odd.part_1",
            "table odd.seen",
            "trigger \"plain\" of odd.Ta ble",
        ]
    );
    let may = "SELECT has_table_privilege('batch', 'odd.part', 'INSERT')";
    assert_eq!(server.scalar("shop", may).await, "t", "by everybody's right to the table of that name");
    drop(before);
}

#[tokio::test]
async fn a_fence_of_an_older_release_is_opened() {
    let (server, configuration) = database(Server::majors()[0]).await;
    let place = Place::connect(&configuration, "shop", "main").await.unwrap();
    let before = server.scalar("shop", STATE).await;
    close(&place, &quickly()).await.unwrap();
    let older = "UPDATE irongate.fence SET saved = regexp_replace(regexp_replace(saved,
        ',\"(oid|number|table_oid)\":[0-9]+', '', 'g'), ',\"roles\":\\{[^}]*\\}', '')";
    server.batch_in("shop", older).await;
    let left = "SELECT count(*) FROM irongate.fence WHERE saved ~ 'oid' OR saved ~ 'roles'";
    assert_eq!(server.scalar("shop", left).await, "0");
    // Closed by this release on top: nothing comes twice.
    close(&place, &quickly()).await.unwrap();
    open(&place, Duration::from_secs(1)).await.unwrap().unwrap();
    assert_eq!(server.scalar("shop", STATE).await, before);
}
