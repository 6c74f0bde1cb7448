//! Databases whose texts are stored otherwise.

use super::support::{Flow, pairs};

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_the_same_characters_in_any_encoding() {
    for pair in pairs() {
        for (number, encodings) in
            [["LATIN1", "UTF8"], ["UTF8", "WIN1252"], ["EUC_JP", "UTF8"]].into_iter().enumerate()
        {
            let mut flow = Flow::encoded(&format!("encoded{number}"), pair, encodings).await;
            let (word, other) = if encodings[0] == "EUC_JP" {
                ("にほんご", "ひらがな")
            } else {
                ("Ünïçødé", "ÄÖÜß")
            };
            flow.at_both(&format!(
                "CREATE TABLE \"{word}\" (\"{other}\" text PRIMARY KEY, n int, many text[]);
                 CREATE TYPE label AS ENUM ('{word}', '{other}');
                 CREATE TABLE f (a label, b text); ALTER TABLE f REPLICA IDENTITY FULL"
            ))
            .await;
            flow.start().await;
            flow.each_at_source(&[
                &format!("INSERT INTO \"{word}\" SELECT '{word}' || i, i, ARRAY['{other}', NULL] FROM generate_series(1, 600) i"),
                &format!("UPDATE \"{word}\" SET n = 0 WHERE \"{other}\" = '{word}7'"),
                &format!("UPDATE \"{word}\" SET \"{other}\" = '{other}' WHERE \"{other}\" = '{word}8'; DELETE FROM \"{word}\" WHERE n = 9"),
                &format!("INSERT INTO f VALUES ('{word}', '{other}'), ('{word}', '{other}'), ('{other}', NULL)"),
                "UPDATE f SET b = b || b WHERE b IS NOT NULL; DELETE FROM f WHERE b IS NULL",
            ])
            .await;
            flow.end_same().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_character_that_the_target_does_not_have_stops_the_flow() {
    for pair in pairs() {
        let mut flow = Flow::encoded("no_such_character", pair, ["UTF8", "LATIN1"]).await;
        flow.at_both("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
        flow.start().await;
        flow.each_at_source(&["INSERT INTO t VALUES (1, 'ä')", "INSERT INTO t VALUES (2, 'the price is €')"])
            .await;
        let error = flow.replicat_abends().await;
        let text = error.to_string();
        assert!(text.contains("\"public.t\"") && text.contains("22P05"), "{text}");
        assert!(!text.contains("price"), "a value in an error: {text}");
        assert_eq!(flow.target_says("SELECT count(*) FROM t").await, "1");
        flow.end().await;
    }
}
