//! What Debezium 3.6.3 made of the same values stands here as it made it, unless a line says otherwise.

use super::*;

fn written(kind: &Kind, text: &str) -> Result<String, Unfit> {
    let mut out = Vec::new();
    write(kind, text, &mut out)?;
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    // It is sound JSON; what is compared is what was written.
    drop(value);
    Ok(String::from_utf8(out).unwrap())
}

fn array(element: Kind) -> Kind {
    Kind::Array(Box::new(element), b',')
}

#[test]
fn values_are_what_debezium_makes_of_them() {
    let decimal = |scale| Kind::Decimal { scale, precision: None };
    for (kind, text, expected) in [
        (Kind::Int64, "9007199254740993", "9007199254740993"),
        (Kind::Boolean, "t", "true"),
        (Kind::Bit, "0", "false"),
        (Kind::Float, "3.1415927", "3.1415927"),
        (Kind::Double, "NaN", "\"NaN\""),
        (Kind::Double, "-Infinity", "\"-Infinity\""),
        (Kind::Double, "1e+300", "1e+300"),
        (Kind::Text(None), "täxt \"q\" \\ ", r#""täxt \"q\" \\ ""#),
        (Kind::VariableDecimal, "12345678901234567890.123", r#"{"scale":3,"value":"Ap1Ctk52cUJEyw=="}"#),
        (
            Kind::VariableDecimal,
            "1000000000000000000000000000000",
            r#"{"scale":0,"value":"DJ8snNBGdO3qQAAAAA=="}"#,
        ),
        (Kind::VariableDecimal, "100", r#"{"scale":0,"value":"ZA=="}"#),
        (decimal(3), "-1.500", "\"+iQ=\""),
        (decimal(2), "12.50", "\"BOI=\""),
        (decimal(3), "0.000", "\"AA==\""),
        (decimal(-3), "5000", "\"BQ==\""),
        (decimal(2), "-$1,234.56", "\"/h3A\""),
        (Kind::Approximate, "12345678901234567890.123", "1.2345678901234567e19"),
        (Kind::Approximate, "NaN", "\"NaN\""),
        (Kind::Bytes, "\\xdeadbeef", "\"3q2+7w==\""),
        (Kind::Bytes, "\\x", "\"\""),
        (Kind::Bits(5), "10101", "\"FQ==\""),
        (Kind::Bits(20), "1010101010", "\"qgI=\""),
        (Kind::Bits(2_147_483_647), "110000000001", "\"AQw=\""),
        (Kind::Date, "2024-02-29", "19782"),
        (Kind::Date, "0044-03-15 BC", "-735160"),
        (Kind::MicroTimestamp, "2024-02-29 12:34:56.123456", "1709210096123456"),
        (Kind::Timestamp, "2024-02-29 12:34:56.123", "1709210096123"),
        (Kind::Timestamp, "1969-12-31 23:59:59.999", "-1"),
        (Kind::MicroTimestamp, "0044-03-15 12:00:00 BC", "-63517780800000000"),
        (Kind::MicroTimestamp, "infinity", "9223372036825200000"),
        (Kind::MicroTimestamp, "-infinity", "-9223372036832400000"),
        (Kind::ZonedTimestamp { width: 6 }, "2024-02-29 10:34:56.1+00", "\"2024-02-29T10:34:56.100000Z\""),
        (Kind::ZonedTimestamp { width: 3 }, "2024-02-29 12:34:56.12+00", "\"2024-02-29T12:34:56.120Z\""),
        (Kind::ZonedTimestamp { width: 6 }, "0044-03-15 12:00:00+00 BC", "\"-0043-03-15T12:00:00.000000Z\""),
        (Kind::ZonedTimestamp { width: 6 }, "infinity", "\"infinity\""),
        (Kind::MicroTime, "24:00:00", "86400000000"),
        (Kind::Time, "12:34:56.789", "45296789"),
        (Kind::ZonedTime, "12:34:56.5+02:30", "\"10:04:56.5Z\""),
        (Kind::ZonedTime, "24:00:00+00", "\"00:00:00Z\""),
        (Kind::Duration, "1 year 2 mons 3 days 04:05:06.789", "37091106789000"),
        (Kind::Point, "(1.5,-2)", r#"{"x":1.5,"y":-2.0,"wkb":"AQEAAAAAAAAAAAD4PwAAAAAAAADA","srid":null}"#),
        (array(Kind::Int32), "{1,NULL,3}", "[1,null,3]"),
        (array(Kind::Text(None)), r#"{a,"b c",NULL,"NULL","q\"x"}"#, r#"["a","b c",null,"NULL","q\"x"]"#),
        (array(decimal(2)), "{1.50,2.00}", r#"["AJY=","AMg="]"#),
        (array(Kind::Double), "{1.5,NaN}", r#"[1.5,"NaN"]"#),
        (array(Kind::Bytes), r#"{"\\xdead"}"#, r#"["3q0="]"#),
        (array(Kind::Int32), "{}", "[]"),
        // Not Debezium's, which gives [null,null].
        (array(Kind::Int32), "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
        (Kind::Hstore, "", r#""{}""#),
        (Kind::Hstore, r#""a"=>"1", "b\"c"=>NULL"#, r#""{\"a\":\"1\",\"b\\\"c\":null}""#),
    ] {
        assert_eq!(written(&kind, text).as_deref(), Ok(expected), "{kind:?} {text}");
    }
}

#[test]
fn what_cannot_be_told_is_refused() {
    for (kind, text, why) in [
        (Kind::VariableDecimal, "NaN", Unfit::NoNumber),
        (Kind::Decimal { scale: 2, precision: None }, "-Infinity", Unfit::NoNumber),
        (Kind::MicroTimestamp, "294276-12-31 23:59:59.999999", Unfit::Range),
        (Kind::Int32, "1x", Unfit::Malformed),
        (Kind::Boolean, "true", Unfit::Malformed),
        (Kind::Double, "nothing", Unfit::Malformed),
        (Kind::Bytes, "\\xabc", Unfit::Malformed),
        (Kind::Bytes, "abc", Unfit::Malformed),
        (Kind::Bits(3), "012", Unfit::Malformed),
        (Kind::Date, "yesterday", Unfit::Malformed),
        (Kind::VariableDecimal, "1-2", Unfit::Malformed),
        (Kind::Decimal { scale: 1, precision: None }, "1.25", Unfit::Malformed),
        (Kind::Point, "1,2", Unfit::Malformed),
        (Kind::Hstore, "a=>1", Unfit::Malformed),
        (array(Kind::Int32), "1", Unfit::Malformed),
        (array(Kind::VariableDecimal), "{NaN}", Unfit::NoNumber),
    ] {
        assert_eq!(written(&kind, text), Err(why), "{kind:?} {text}");
        assert!(!why.reason().is_empty() && !why.remedy().is_empty());
    }
}

#[test]
fn a_value_that_was_not_sent_is_told_from_one_that_is_not_there() {
    let unavailable = |kind: &Kind| {
        let mut out = Vec::new();
        write_unavailable(kind, &mut out);
        serde_json::from_slice::<serde_json::Value>(&out).unwrap()
    };
    assert_eq!(unavailable(&Kind::Text(None)), UNAVAILABLE);
    assert_eq!(unavailable(&Kind::Bytes), "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==");
    assert_eq!(unavailable(&array(Kind::Text(None))), serde_json::json!([UNAVAILABLE]));
    let numbers = unavailable(&array(Kind::Int32));
    assert_eq!((&numbers[0], &numbers[2], numbers.as_array().unwrap().len()), (&95.into(), &100.into(), 28));
    let uuids = unavailable(&array(Kind::Text(Some("io.debezium.data.Uuid"))));
    assert_eq!(uuids, serde_json::json!([UNAVAILABLE_UUID]));
    // Debezium gives null here, which says that there is no value.
    assert_eq!(unavailable(&Kind::VariableDecimal)["value"], "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==");
    assert_eq!(
        unavailable(&array(Kind::Decimal { scale: 2, precision: None }))[0],
        "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="
    );
}
