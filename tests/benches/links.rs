//! What a link takes: plain, through farcc on a cluster on this machine, and as a hit; and the bytes that it moves.
//!
//! `cargo bench -p farcc-tests --bench links`. All are interleaved in one run, and only ratios of medians mean anything. The
//! objects were made by the cluster, as in a build.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::prerequisites;
use farcc_tests::say;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::TestSpace;
use farcc_tests::timing::median;
use farcc_tests::timing::millis;

const ROUNDS: usize = 15;
/// Sources of each program, from few to many.
const SIZES: &[usize] = &[5, 100];

fn main() {
    prerequisites::require(&["g++"]);
    for size in SIZES {
        measure(*size);
    }
}

fn source(number: usize) -> String {
    let templates = "#include <map>\n#include <string>\n#include <vector>\n#include <algorithm>\n";
    let function = |at: usize| {
        format!(
            "int f{number}_{at}(std::map<std::string, std::vector<int>> &m) {{ auto &v = m[\"{at}\"]; \
             v.push_back({at}); std::sort(v.begin(), v.end()); return v[0]; }}\n"
        )
    };
    let main = if number == 0 { "int main() { return 0; }\n" } else { "" };
    format!("{templates}{}{main}", (0..8).map(function).collect::<String>())
}

fn measure(size: usize) {
    let space = TestSpace::new("bench-links");
    let server = ServeProcess::start(&space, "cluster");
    let configure = |salt: usize| {
        let address = server.address();
        space.configure(&format!("[remote]\naddress = \"grpc://{address}\"\n[exec]\nsalt = \"{salt}\"\n"));
    };
    configure(0);
    let sources: Vec<String> = (0..size).map(|number| format!("s{number}.cc")).collect();
    for (number, name) in sources.iter().enumerate() {
        space.write(name, source(number));
    }
    let script = "for s in *.cc; do echo $s; done | xargs -P 2 -I {} farcc g++ -O1 -g -c {}";
    space.sh("", script).success();
    let objects: Vec<String> = sources.iter().map(|name| name.replace(".cc", ".o")).collect();
    let link = |launcher: &[&str]| {
        let _ = std::fs::remove_file(space.workspace().join("app"));
        let mut words: Vec<&str> = launcher.to_vec();
        words.push("g++");
        words.extend(objects.iter().map(String::as_str));
        words.extend(["-o", "app"]);
        let mut command = space.command(words[0]);
        command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null());
        let started = Instant::now();
        assert!(command.status().unwrap().success());
        started.elapsed()
    };
    link(&["farcc"]);
    let (mut plain, mut remote, mut hit) = (Vec::new(), Vec::new(), Vec::new());
    let (mut uploaded, mut downloaded) = (0, 0);
    for round in 1..=ROUNDS {
        // Another key each time, of the same inputs.
        configure(round);
        space.reset_stats();
        plain.push(link(&[]));
        remote.push(link(&["farcc"]));
        let stats = space.stats();
        assert_eq!(stats.verdict("executed_remote"), 1, "{}", stats.0);
        uploaded = stats.0["bytes"]["uploaded"].as_u64().unwrap();
        downloaded = stats.0["bytes"]["downloaded"].as_u64().unwrap();
        hit.push(link(&["farcc"]));
        assert_eq!(space.stats().verdict("hit_local"), 1);
    }
    let bytes = |names: &[String]| -> u64 {
        names.iter().map(|name| std::fs::metadata(space.workspace().join(name)).unwrap().len()).sum()
    };
    let [plain, remote, hit] = [plain, remote, hit].map(median);
    let ratio = |time: Duration| time.as_secs_f64() / plain.as_secs_f64();
    say(&format!(
        "{size:>4} objects of {} bytes into {}: plain {:.1} ms, on a cluster on this machine {:.1} ms ({:.2} x; {uploaded} \
         bytes there, {downloaded} back), hit {:.1} ms ({:.2} x)",
        bytes(&objects),
        bytes(&["app".to_owned()]),
        millis(plain),
        millis(remote),
        ratio(remote),
        millis(hit),
        ratio(hit)
    ));
}
