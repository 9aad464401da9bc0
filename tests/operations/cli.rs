//! The command line: standard output, standard error and exit codes.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests fail loudly")]

use std::{
    fs::File,
    io,
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use descord_relay::{admin::client, build_info};
use libp2p::PeerId;
use tempfile::TempDir;
use test_support::process::{Relay, command, is, kill, socket};

const SEED: &str = "correct horse battery staple";

/// Runs the binary with this environment and these arguments in an empty directory.
async fn run(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let directory = TempDir::new().unwrap();
    let output = command(variables)
        .args(arguments)
        .current_dir(&directory)
        .output();
    let output = tokio::time::timeout(test_support::PATIENCE, output).await;
    assert!(is_empty(directory.path()), "the command wrote a file");
    output.expect("the command exits").unwrap()
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

fn stdout_text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr_text(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A port that is currently free.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_every_error_and_nothing_is_started() {
    let port = free_port();
    let listen = format!("/ip4/127.0.0.1/tcp/{port}");
    let output = run(
        &[
            ("RELAY_LISTEN_ADDRESSES", &listen),
            ("RELAY_MAX_CIRCUITS", "many"),
            ("RELAY_RESERVATION_TTL", "1"),
            ("RELAY_MAX_CIRCIUT_BYTES", "1MB"),
            ("RELAY_IDENTITY_SEED", "secret"),
        ],
        &[],
    )
    .await;
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(
        stdout_text(&output),
        "",
        "a command that starts nothing has logged"
    );
    let errors = stderr_text(&output);
    for name in [
        "RELAY_MAX_CIRCUITS: ",
        "RELAY_RESERVATION_TTL: ",
        "did you mean RELAY_MAX_CIRCUIT_BYTES?",
        "RELAY_IDENTITY_SEED: ",
    ] {
        assert!(errors.contains(name), "no {name:?} in {errors}");
    }
    assert_eq!(errors.lines().count(), 4, "{errors}");
    assert!(!errors.contains("\"secret\""), "{errors}");
    TcpListener::bind(("127.0.0.1", port)).unwrap();
}

#[tokio::test]
async fn every_subcommand_refuses_a_bad_configuration() {
    for arguments in [
        ["serve"].as_slice(),
        &["config"],
        &["identity"],
        &["identity", "addresses"],
        &["dns"],
        &["dnsaddr"],
        &[],
    ] {
        let output = run(&[("RELAY_MAX_CIRCUITS", "many")], arguments).await;
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert_eq!(stdout_text(&output), "");
        assert!(stderr_text(&output).starts_with("RELAY_MAX_CIRCUITS: "));
    }
    let output = run(&[("RUST_LOG", "no=such=level")], &[]).await;
    assert_eq!(output.status.code(), Some(64));
    let directive = "RUST_LOG: \"no=such=level\" is not a directive";
    assert!(
        stderr_text(&output).starts_with(directive),
        "{}",
        stderr_text(&output)
    );
    assert!(
        stderr_text(&output).contains("; allowed: "),
        "{}",
        stderr_text(&output)
    );
}

#[tokio::test]
async fn config_prints_effective_values_and_no_secret() {
    let output = run(
        &[
            ("RELAY_IDENTITY_SEED", SEED),
            ("RELAY_MAX_CIRCUIT_BYTES", "64KiB"),
        ],
        &["config"],
    )
    .await;
    assert_eq!(output.status.code(), Some(0));
    let config = stdout_text(&output);
    let line = |start: &str| config.lines().find(|line| line.starts_with(start));
    assert!(line("RELAY_MAX_RESERVATIONS=1024").is_some(), "{config}");
    let seed = line("RELAY_IDENTITY_SEED=").unwrap();
    assert!(
        seed.len() > "RELAY_IDENTITY_SEED=".len(),
        "a set secret is not masked"
    );
    assert!(!config.contains(SEED), "{config}");

    // The printed environment results in the same configuration.
    let pairs: Vec<_> = config
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| !name.contains("IDENTITY"))
        .collect();
    let again = run(&pairs, &["config"]).await;
    assert_eq!(again.status.code(), Some(0), "{}", stderr_text(&again));
    let values = |config: &str| {
        let lines = config.lines().filter(|l| !l.starts_with('#'));
        let lines = lines.filter(|l| !l.contains("IDENTITY"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(values(&stdout_text(&again)), values(&config));
}

#[tokio::test]
async fn the_reference_lists_every_variable_of_the_configuration() {
    let reference = run(&[], &["config", "--reference"]).await;
    assert_eq!(reference.status.code(), Some(0));
    let reference = stdout_text(&reference);
    assert!(reference.starts_with("### Addresses\n\n| Variable | Default | Meaning |\n"));
    let config = stdout_text(&run(&[], &["config"]).await);
    let names = config.lines().filter_map(|line| line.split_once('='));
    let names: Vec<_> = names
        .map(|(name, _)| name)
        .filter(|n| !n.starts_with('#'))
        .collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(reference.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[tokio::test]
async fn identity_prints_only_the_peer_id_of_the_relay() {
    let fleet = [("RELAY_IDENTITY_SEED", SEED), ("RELAY_INSTANCE", "relay-1")];
    let output = run(&fleet, &["identity"]).await;
    assert_eq!(output.status.code(), Some(0));
    let printed = stdout_text(&output);
    let peer_id: PeerId = printed.strip_suffix('\n').unwrap().parse().unwrap();
    for _ in 0..2 {
        let relay = Relay::start(&fleet).await;
        assert_eq!(relay.peer_id, peer_id);
        relay.stop().await;
    }
    let other = [("RELAY_IDENTITY_SEED", SEED), ("RELAY_INSTANCE", "relay-2")];
    assert_ne!(stdout_text(&run(&other, &["identity"]).await), printed);

    let none = run(&[], &["identity"]).await;
    assert_eq!(none.status.code(), Some(64));
    assert_eq!(stdout_text(&none), "");
    assert!(stderr_text(&none).contains("RELAY_IDENTITY_SEED"));
}

#[tokio::test]
async fn a_generated_seed_is_new_and_can_be_used() {
    let first = stdout_text(&run(&[], &["identity", "generate"]).await);
    let second = stdout_text(&run(&[], &["identity", "generate"]).await);
    assert_ne!(first, second);
    assert_eq!(first.lines().count(), 1);
    let seed = [("RELAY_IDENTITY_SEED", first.trim_end())];
    let output = run(&seed, &["identity"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr_text(&output));
}

#[tokio::test]
async fn a_seed_is_written_to_a_file_once() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("seed");
    let name = path.to_str().unwrap();
    let generate = ["identity", "generate", "--to", name];
    let first = run(&[], &generate).await;
    assert_eq!(first.status.code(), Some(0), "{}", stderr_text(&first));
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o440);
    let seed = std::fs::read_to_string(&path).unwrap();
    assert!(!stdout_text(&first).contains(seed.trim_end()));
    let identity = run(&[("RELAY_IDENTITY_SEED_FILE", name)], &["identity"]).await;
    assert_eq!(
        identity.status.code(),
        Some(0),
        "{}",
        stderr_text(&identity)
    );

    let second = run(&[], &generate).await;
    assert_eq!(second.status.code(), Some(0), "{}", stderr_text(&second));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), seed);

    let nowhere = directory.path().join("none/seed");
    let third = run(
        &[],
        &["identity", "generate", "--to", nowhere.to_str().unwrap()],
    )
    .await;
    assert_eq!(third.status.code(), Some(1));
    assert!(
        stderr_text(&third).contains("none/seed"),
        "{}",
        stderr_text(&third)
    );
}

/// The relay does not start while its address is in use, even by another relay.
#[tokio::test]
async fn an_occupied_address_is_named() {
    let relay = Relay::start(&[]).await;
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = [
        format!("/ip4/127.0.0.1/tcp/{}", socket(&relay.tcp()).port()),
        format!(
            "/ip4/127.0.0.1/tcp/{}/ws",
            socket(&relay.websocket()).port()
        ),
        format!(
            "/ip4/127.0.0.1/udp/{}/quic-v1",
            socket(&relay.quic()).port()
        ),
        format!("/ip4/127.0.0.1/tcp/{}", tcp.local_addr().unwrap().port()),
        format!(
            "/ip4/127.0.0.1/udp/{}/quic-v1",
            udp.local_addr().unwrap().port()
        ),
    ];
    for address in &taken {
        let listen = format!("/ip4/127.0.0.1/tcp/0,{address}");
        let variables = [
            ("RELAY_LISTEN_ADDRESSES", listen.as_str()),
            ("RELAY_ADMIN_ADDRESS", ""),
        ];
        let output = run(&variables, &[]).await;
        assert_eq!(
            output.status.code(),
            Some(1),
            "{address}: {}",
            stdout_text(&output)
        );
        let printed = stdout_text(&output) + &stderr_text(&output);
        let cause = format!("cannot listen on {address}: Address already in use");
        assert!(printed.contains(&cause), "{printed}");
        assert!(!printed.contains("relay ready"), "{printed}");
    }
    relay.stop().await;
}

#[tokio::test]
async fn invalid_arguments_fail_and_help_succeeds() {
    for arguments in [
        ["relay"].as_slice(),
        &["--no-such-flag"],
        &["config", "--json"],
    ] {
        let output = run(&[], arguments).await;
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert_eq!(stdout_text(&output), "");
        assert!(
            stderr_text(&output).contains("Usage:"),
            "{}",
            stderr_text(&output)
        );
    }
    let version = run(&[], &["-V"]).await;
    assert_eq!(version.status.code(), Some(0));
    let short = concat!("descord-relay ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(stdout_text(&version), short);
    let version = run(&[], &["--version"]).await;
    assert_eq!(version.status.code(), Some(0));
    // arm64 kernels have pages of up to 64 KiB. The allocator would abort on larger pages than it was
    // built for.
    let page = if cfg!(target_arch = "aarch64") { 64 } else { 4 };
    let long = format!(
        "{short}revision: {}\ntarget: {}\nallocator: jemalloc, for pages of up to {page} KiB\n",
        build_info::REVISION,
        build_info::target(),
    );
    assert_eq!(stdout_text(&version), long);
    assert!(build_info::target().starts_with(std::env::consts::ARCH));
    let help = run(&[], &["--help"]).await;
    assert_eq!(help.status.code(), Some(0));
    for word in ["serve", "probe", "identity", "config"] {
        assert!(stdout_text(&help).contains(word), "{}", stdout_text(&help));
    }
    assert_eq!(stderr_text(&help), "");
}

/// A relay writes no file into its working directory.
#[tokio::test]
async fn a_relay_writes_no_file() {
    let directory = TempDir::new().unwrap();
    let mut relay = Relay::start_in(directory.path(), &[]).await;
    assert!(is_empty(directory.path()));
    relay.signal(15);
    assert_eq!(relay.exit_code().await, Some(0));
    assert!(is_empty(directory.path()));
    assert!(
        relay
            .events
            .iter()
            .any(|e| is(e, "RELAY_EXTERNAL_ADDRESSES is not set"))
    );
    let ephemeral = "neither RELAY_IDENTITY_SEED nor RELAY_IDENTITY_KEY is set";
    assert!(relay.events.iter().any(|e| is(e, ephemeral)));
}

type Variables = Vec<(&'static str, String)>;

/// Every subcommand that prints, with an environment in which it succeeds.
fn printing(relay: &Relay, seed: &Path) -> Vec<(Vec<String>, Variables)> {
    let words = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let fleet = vec![
        ("RELAY_IDENTITY_SEED", SEED.to_owned()),
        ("RELAY_DNS_ZONE", "relays.example".to_owned()),
        ("RELAY_FLEET_INSTANCES", "relay-0,relay-1".to_owned()),
        (
            "RELAY_EXTERNAL_ADDRESSES",
            "/dns4/{instance}.example/tcp/9000".to_owned(),
        ),
    ];
    let admin = vec![("RELAY_ADMIN_ADDRESS", relay.admin().to_string())];
    let generate = format!("identity generate --to {}", seed.display());
    let probe = format!("probe {}", relay.tcp());
    let pseudonym = format!("identity pseudonym {}", relay.peer_id);
    let access = format!("access check {}", relay.peer_id);
    [
        ("config", &fleet),
        ("config --reference", &fleet),
        ("identity", &fleet),
        ("identity generate", &fleet),
        (generate.as_str(), &fleet),
        ("dnsaddr", &fleet),
        ("dnsaddr --json", &fleet),
        ("identity addresses", &fleet),
        (pseudonym.as_str(), &fleet),
        (access.as_str(), &fleet),
        ("completions bash", &fleet),
        ("man", &fleet),
        ("status", &admin),
        ("log-filter", &admin),
        ("log-filter info", &admin),
        (probe.as_str(), &admin),
        ("--help", &fleet),
        ("help dnsaddr", &fleet),
        ("--version", &fleet),
    ]
    .map(|(arguments, variables)| (words(arguments), variables.clone()))
    .into()
}

/// The outcome of each printing subcommand with this standard output.
async fn print_to(stdout: impl Fn() -> Stdio) -> Vec<(String, Output)> {
    let relay = Relay::start(&[("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")]).await;
    let directory = TempDir::new().unwrap();
    let mut outputs = Vec::new();
    for (arguments, variables) in printing(&relay, &directory.path().join("seed")) {
        let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let process = command(&variables)
            .args(&arguments)
            .stdout(stdout())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = tokio::time::timeout(test_support::PATIENCE, process.wait_with_output());
        outputs.push((arguments.join(" "), output.await.unwrap().unwrap()));
    }
    relay.stop().await;
    outputs
}

/// The write end of a pipe without a reader.
fn closed_pipe() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full_disk() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

/// As with `| head -0`, and with the exit code of other tools in this case.
#[tokio::test(flavor = "multi_thread")]
async fn closed_standard_output_ends_a_command_quietly() {
    for (command, output) in print_to(closed_pipe).await {
        assert_eq!(output.status.code(), Some(141), "{command}: {output:?}");
        let quiet = stderr_text(&output)
            .lines()
            .all(|line| line.starts_with("warning: "));
        assert!(quiet, "{command}: {}", stderr_text(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_is_an_error_of_a_command() {
    for (command, output) in print_to(full_disk).await {
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        let printed = stderr_text(&output);
        let cause = "cannot write to standard output: No space left on device";
        assert!(printed.contains(cause), "{command}: {printed}");
        assert!(!printed.contains("panicked"), "{command}: {printed}");
    }
}

#[tokio::test]
async fn exit_code_stays_when_standard_error_cannot_be_written() {
    for stderr in [closed_pipe, full_disk] {
        for (arguments, code) in [
            (["config"].as_slice(), 64),
            (&["serve"], 64),
            (&["--no-such-flag"], 64),
            (&["healthcheck"], 64),
        ] {
            let mut command = command(&[("RELAY_MAX_CIRCUITS", "many")]);
            command
                .args(arguments)
                .stdout(Stdio::null())
                .stderr(stderr());
            let status = command.spawn().unwrap().wait().await.unwrap();
            assert_eq!(status.code(), Some(code), "{arguments:?}");
        }
        // Also if the error is about standard output.
        let mut command = command(&[]);
        command.arg("config").stdout(full_disk()).stderr(stderr());
        let status = command.spawn().unwrap().wait().await.unwrap();
        assert_eq!(status.code(), Some(1));
    }
}

/// Log lines are lost, but the relay works.
#[tokio::test(flavor = "multi_thread")]
async fn relay_serves_when_its_log_cannot_be_written() {
    for output in [closed_pipe, full_disk] {
        let (admin, relay) = (free_port(), free_port());
        let admin = format!("127.0.0.1:{admin}");
        let listen = format!("/ip4/127.0.0.1/tcp/{relay}");
        let mut process = command(&[
            ("RELAY_ADMIN_ADDRESS", &admin),
            ("RELAY_LISTEN_ADDRESSES", &listen),
            ("RELAY_DRAIN_DELAY", "0"),
            // Spans and metrics are also printed.
            ("OTEL_TRACES_EXPORTER", "console"),
            ("OTEL_METRICS_EXPORTER", "console"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ])
        .stdout(output())
        .stderr(output())
        .spawn()
        .unwrap();
        let admin = admin.parse().unwrap();
        let ready = tokio::time::timeout(test_support::PATIENCE, async {
            while !client::get(admin, "/readyz")
                .await
                .is_ok_and(|(s, _)| s == 200)
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        ready.await.unwrap();
        let (_, status) = client::get(admin, "/status").await.unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        let address = format!("{listen}/p2p/{}", status["peer_id"].as_str().unwrap());
        for _ in 0..3 {
            test_support::ordinary_clients::assert_served(&address.parse().unwrap()).await;
        }
        let lost = async || {
            let (_, metrics) = client::get(admin, "/metrics").await.unwrap();
            let metrics = String::from_utf8(metrics.to_vec()).unwrap();
            let lost = metrics
                .lines()
                .find_map(|l| l.strip_prefix("relay_telemetry_lost_total{signal=\"logs\"} "));
            lost.is_some_and(|lost| lost.parse::<f64>().unwrap() > 0.0)
        };
        let counted = tokio::time::timeout(test_support::PATIENCE, async {
            while !lost().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        counted.await.unwrap();
        let (status, _) = client::get(admin, "/livez").await.unwrap();
        assert_eq!(status, 200, "no task has panicked");
        kill(15, process.id().unwrap());
        let ended = tokio::time::timeout(test_support::PATIENCE, process.wait());
        assert_eq!(ended.await.unwrap().unwrap().code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_signals_are_logged_and_ignored() {
    let mut relay = Relay::start(&[]).await;
    for (signal, name) in [(1, "SIGHUP"), (10, "SIGUSR1"), (12, "SIGUSR2")] {
        relay.signal(signal);
        let event = relay.event("signal ignored").await;
        assert_eq!(event["signal"], name, "{event}");
        test_support::ordinary_clients::assert_served(&relay.tcp()).await;
    }
    relay.signal(15);
    assert_eq!(relay.exit_code().await, Some(0));
    assert!(!relay.events.iter().any(|e| is(e, "a task panicked")));
}

#[tokio::test]
async fn password_in_the_access_url_is_never_printed() {
    for url in [
        "https://user:hunter2@members",
        "https://user:hunter2@mem bers",
        "https://user:12/hunter2@members",
        "user:hunter2@members",
    ] {
        for arguments in [["config"].as_slice(), &["serve"], &["dns"], &["status"]] {
            let output = run(&[("RELAY_ACCESS_URL", url)], arguments).await;
            assert_eq!(output.status.code(), Some(64), "{arguments:?}");
            let printed = stdout_text(&output) + &stderr_text(&output);
            assert!(printed.contains("RELAY_ACCESS_URL: "), "{printed}");
            assert!(!printed.contains("hunter2"), "{printed}");
        }
    }
}
