//! The verbs as functions do what the commands do: the same words, the same results.

use std::ffi::OsString;
use std::sync::Mutex;

use crate::world::World;
use mgpack::progress::{Progress, Stage, Stop};
use mgpack::verbs::Work;
use mgpack::verbs::convert::{ConvertCall, PlanCall, convert, plan, plan_json};
use mgpack::verbs::doctor::{DoctorCall, doctor};
use mgpack::verbs::inspect::{InspectCall, inspect};
use mgpack::verbs::map::{MapCall, map};
use mgpack::verbs::release::{ReleaseCall, release};
use mgpack::verbs::report::{Pages, ReportCall, report};
use serde::Serialize;
use serde_json::{Value, json};

/// Keeps what is reported.
#[derive(Default)]
struct Heard {
    announced: Mutex<Vec<String>>,
    stages: Mutex<Vec<Stage>>,
}

impl Progress for Heard {
    fn begin(&self, stage: Stage, _: u64) {
        self.stages.lock().unwrap().push(stage);
    }
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
    fn announce(&self, text: &str) {
        self.announced.lock().unwrap().push(text.to_owned());
    }
}

/// The environment that commands of this world have.
fn variables(world: &World) -> impl Fn(&str) -> Option<OsString> + Sync {
    let (cache, home) = (world.path("cache"), world.path("home"));
    move |name| match name {
        "XDG_CACHE_HOME" => Some(cache.clone().into()),
        "HOME" => Some(home.clone().into()),
        "HF_HUB_OFFLINE" => Some("1".into()),
        "PATH" => std::env::var_os("PATH"),
        _ => None,
    }
}

/// A call from JSON, as Python gives it.
fn call<T: serde::de::DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

fn printed(world: &World, args: &[&str]) -> Value {
    serde_json::from_str(&world.run(args).out).unwrap()
}

fn json_of(value: &impl Serialize) -> Value {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

#[test]
fn a_plan_from_json_is_the_plan_that_the_command_prints() {
    let world = World::new();
    let (heard, stop, variables) = (Heard::default(), Stop::new(), variables(&world));
    let work = Work { progress: &heard, stop: &stop, variables: &variables };
    let asked: PlanCall = call(json!({
        "model": "tiny",
        "weights": { "scheme": "bf16", "ignore": ["re:.*down_proj"] },
        "room": { "gpus": ["2x2GiB", { "0": 4u64 << 30 }], "context": 64, "reserve": 1 << 20, "attention": "sdpa" },
        "on_overflow": "clamp",
        "max_shard_size": 1 << 20,
        "threads": 1,
        "isa": "scalar",
    }));
    let found = plan_json(&plan(&asked, work).unwrap());
    let line = "plan tiny --bf16 --ignore re:.*down_proj --gpus 2x2GiB --gpus 4GiB --context 64 --reserve 1MiB \
                --attention sdpa --on-overflow clamp --max-shard-size 1MiB -j 1 --isa scalar --json";
    assert_eq!(json_of(&found), printed(&world, &line.split(' ').collect::<Vec<_>>()));
    assert_eq!(found["device_maps"].as_array().unwrap().len(), 2);
}

#[test]
fn an_option_that_a_verb_does_not_have_is_an_error() {
    for wrong in [
        json!({ "model": "tiny", "thread": 1 }),
        json!({ "model": "tiny", "weights": { "scheme": "int7" } }),
        json!({ "model": "tiny", "room": { "contexts": 1 } }),
        json!({ "model": "tiny", "on_overflow": "stop" }),
        json!({ "model": "tiny", "isa": "abacus" }),
    ] {
        assert!(serde_json::from_value::<PlanCall>(wrong.clone()).is_err(), "{wrong}");
    }
    assert!(serde_json::from_value::<PlanCall>(json!({ "model": "tiny" })).is_ok());
}

#[test]
fn each_verb_gives_what_its_command_prints() {
    let world = World::new();
    let (heard, stop, variables) = (Heard::default(), Stop::new(), variables(&world));
    let work = Work { progress: &heard, stop: &stop, variables: &variables };
    let bundle = world.path("bundle");
    let given = |name: &str| bundle.with_file_name(name).to_str().unwrap().to_owned();

    let asked: ConvertCall = call(json!({ "plan": { "model": "tiny" }, "output": bundle }));
    let made = convert(&asked, work).unwrap();
    assert!(heard.announced.lock().unwrap()[0].starts_with("converting "));
    assert!(heard.stages.lock().unwrap().contains(&Stage::Tensors));
    world.good(&["verify", "bundle"]);

    let found = inspect(&call::<InspectCall>(json!({ "path": bundle })), work).unwrap();
    assert_eq!(json_of(&found), printed(&world, &["inspect", "bundle", "--json"]));
    let checkpoint = made.conversion.located.dir.to_str().unwrap();
    let found = inspect(&call::<InspectCall>(json!({ "path": checkpoint })), work).unwrap();
    assert_eq!(json_of(&found), printed(&world, &["inspect", checkpoint, "--json"]));

    let found =
        map(&call::<MapCall>(json!({ "model": bundle, "room": { "gpus": ["4GiB"] } })), work).unwrap();
    assert_eq!(json_of(&found), printed(&world, &["map", "bundle", "--gpus", "4GiB", "--json"]));
    let of_family = json!({ "model": "34b", "weights": { "scheme": "int8", "format": "bnb" } });
    let found = map(&call::<MapCall>(of_family), work).unwrap();
    assert_eq!(json_of(&found), printed(&world, &["map", "34b", "--format", "bnb", "--int8", "--json"]));

    let found =
        release(&call::<ReleaseCall>(json!({ "bundle": bundle, "output": given("one") })), work).unwrap();
    assert_eq!(json_of(&found), printed(&world, &["release", "bundle", "-o", "two", "--json"]));

    let asked: ReportCall = call(json!({ "bundle": bundle, "against": checkpoint, "threads": 1 }));
    let found = report(&asked, work).unwrap();
    let mut want = printed(&world, &["report", "bundle", "--against", checkpoint, "--json"]);
    // The folder as it was given.
    want["command"] = json!(format!("mgpack report {} --against {checkpoint}", bundle.display()));
    assert_eq!(json_of(&found.report), want);
    let pages = Pages { page: Some(world.path("page.html")), ..Pages::default() };
    found.write(&pages, work).unwrap();
    let page = std::fs::read_to_string(world.path("page.html")).unwrap();
    assert!(page.contains(&found.report.bundle) && page.contains("</html>"));

    let found =
        json_of(&doctor(&call::<DoctorCall>(json!({ "bundle": bundle, "no_import": true })), work).unwrap());
    let want = printed(&world, &["doctor", "bundle", "--no-import", "--json"]);
    for key in ["python", "packages", "families_served", "findings", "imports"] {
        assert_eq!(found[key], want[key], "{key}");
    }
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&found), keys(&want));
}
