use clap::Parser;

use super::target::password;
use super::*;

#[derive(Debug, Parser)]
struct SimulateCommandLine {
    #[command(flatten)]
    args: SimulateArgs,
}

fn parse(line: &str) -> Result<SimulateArgs, String> {
    let words = std::iter::once("simulate").chain(line.split_whitespace());
    SimulateCommandLine::try_parse_from(words).map(|c| c.args).map_err(|e| e.to_string())
}

#[test]
fn defaults_are_a_small_site_on_this_host() {
    let args = parse("").expect("defaults");
    let target = PublishTarget::new(&args).expect("settings");
    let broker = target.broker(&args).expect("a broker");
    assert_eq!((broker.host.as_str(), broker.port), ("127.0.0.1", 1883));
    assert!(broker.client_id.starts_with("demo-simulator-"));
    assert!(broker.tls.is_none() && broker.credentials.is_none());
    let now = OffsetDateTime::now_utc();
    assert_eq!(source_settings(&args, &target, now).clock, MomentumClock::Wall);
}

#[test]
fn the_vendors_broker_is_refused() {
    for host in ["mqtt-client.centiloc.com", "centiloc.com", "MQTT-client.Centiloc.com."] {
        let args = parse(&format!("--host {host}")).expect("parses");
        let error = PublishTarget::new(&args).err().expect("refused");
        assert!(error.is::<UsageError>());
        let error = error.to_string();
        assert!(error.contains("broker of your own"), "{error}");
    }
    let other = parse("--host notcentiloc.com").expect("parses");
    assert!(PublishTarget::new(&other).is_ok(), "another's domain");
}

#[test]
fn incomplete_credentials_are_refused() {
    for line in ["--cert a.pem", "--key a.pem", "--ca a.pem", "--username u"] {
        parse(line).expect_err(line);
    }
}

#[test]
fn values_out_of_range_are_refused() {
    for line in [
        "--boards 0",
        "--items 0",
        "--max-inflight 0",
        "--duplicates 1.5",
        "--duplicates NaN",
        "--start yesterday",
        "--start 9999-01-01T00:00:00Z",
        "--tenant a/b",
        "--tenant #",
        "--over 1s",
        "--over 30",
        "--over 30d --start 2026-01-01T00:00:00Z",
    ] {
        parse(line).expect_err(line);
    }
}

#[test]
fn one_trailing_newline_of_password_is_stripped() {
    use secrecy::ExposeSecret as _;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("password");
    for (text, expected) in [("pass\n", "pass"), ("pass\r\n", "pass"), (" pass \n\n", " pass \n")] {
        std::fs::write(&file, text).expect("written");
        assert_eq!(password(&file).expect("read").expose_secret(), expected);
    }
    let error = password(&dir.path().join("absent")).expect_err("absent").to_string();
    assert!(error.contains("absent"), "{error}");
}

#[test]
fn history_has_a_count_a_rate_and_boards() {
    let args = parse("--over 30d --items 100").expect("parses");
    let now = time::macros::datetime!(2026-03-01 10:00 UTC);
    let target = PublishTarget::new(&args).expect("settings");
    let settings = source_settings(&args, &target, now);
    assert_eq!(
        (rate(&args), settings.count),
        (HISTORY_RATE, Some(100 * 30 * EVENTS_AN_ITEM_A_DAY))
    );
    assert!(settings.world.board_events);
    assert!(matches!(settings.clock, MomentumClock::EventHistory(_)));
    let args = parse("--over 30d --items 100 --count 7 --rate 3").expect("parses");
    assert_eq!((rate(&args), source_settings(&args, &target, now).count), (3, Some(7)));
}

#[test]
fn options_override_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    let text = "tenant = \"acme\"\n[mqtt]\nhost = \"broker.example\"\nport = 1884\n\
                username = \"u\"\npassword = \"p\"\nitems = \"json\"\n\
                [mqtt.tls]\nenabled = false\nallow_plaintext = true\n\
                [database]\nurl = \"postgres:///x\"\n";
    std::fs::write(&file, text).expect("written");
    let of = |more: &str| {
        let args = parse(&format!("-c {} {more}", file.display())).expect("parses");
        PublishTarget::new(&args).expect("settings").broker(&args).map(|broker| (broker, args))
    };
    let (broker, args) = of("").expect("a broker");
    assert_eq!((broker.host.as_str(), broker.port), ("broker.example", 1884));
    assert!(broker.client_id.starts_with("acme-simulator-") && broker.tls.is_none());
    assert_eq!(broker.credentials.map(|(user, _)| user).as_deref(), Some("u"));
    let format = PublishTarget::new(&args).expect("settings").format;
    assert_eq!(format, FormatChoice::Json);
    let (broker, _) = of("--host localhost --port 1 --tenant other").expect("a broker");
    assert_eq!((broker.host.as_str(), broker.port), ("localhost", 1));
    assert!(broker.client_id.starts_with("other-simulator-"));
}
