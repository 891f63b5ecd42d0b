//! Real devices: what `--gpus auto` reads through NVML and nvidia-smi, both scripted, from the real binary.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::world::{self, Ran, World, ran, write};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const UUIDS: [&str; 3] = ["GPU-aaaa1111", "GPU-aabb2222", "GPU-cccc3333"];

/// A machine: a stand-in for the driver's library, one for its command, or neither.
struct Machine {
    world: World,
    variables: Vec<(&'static str, String)>,
}

impl Machine {
    /// Without a driver: neither its library nor its command is found.
    fn new() -> Self {
        let machine = Self { world: World::new(), variables: Vec::new() };
        fs::create_dir(machine.world.path("lib")).unwrap();
        fs::create_dir(machine.world.path("bin")).unwrap();
        machine
    }

    /// With `libnvidia-ml.so.1` compiled from tests/support/nvml.c, which answers by `script`.
    fn nvml(self, script: &str) -> Self {
        self.compiled(script, &[])
    }

    fn compiled(self, script: &str, flags: &[&str]) -> Self {
        write(&self.world.path("nvml.txt"), script.as_bytes());
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/nvml.c");
        let library = self.world.path("lib/libnvidia-ml.so.1");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Werror", source, "-o"])
            .arg(library)
            .args(flags)
            .output()
            .expect("a C compiler, which the README asks for");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        self
    }

    /// With a command `nvidia-smi` of this shell script.
    fn nvidia_smi(self, script: &str) -> Self {
        let path = self.world.path("bin/nvidia-smi");
        write(&path, format!("#!/bin/sh\n{script}\n").as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn var(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = self.world.command(args);
        command
            .env_remove("CUDA_VISIBLE_DEVICES")
            .env_remove("CUDA_DEVICE_ORDER")
            .env("LD_LIBRARY_PATH", self.world.path("lib"))
            .env("MGPACK_TEST_NVML", self.world.path("nvml.txt"))
            .env("PATH", format!("{}:/usr/bin:/bin", self.world.path("bin").display()))
            .envs(self.variables.iter().cloned());
        ran(&mut command)
    }

    /// The budgets of the map that `--gpus auto` came to, null where there is none, and what was said.
    fn auto(&self) -> (Value, String) {
        let ran = self.run(&["plan", "tiny", "--int8", "--gpus", "auto", "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let used = &ran.json()["device_maps"][0]["used"];
        // A map without a table is for one device as large as the model, with no reserve.
        let given = used["0"]["reserve"] != 0 || used.get("0").is_none();
        let budgets = used.as_object().unwrap().iter();
        let budgets = budgets.map(|(device, used)| (device.clone(), used["budget"].clone())).collect();
        let table = if given { Value::Object(budgets) } else { Value::Null };
        (table, ran.err)
    }
}

fn gpu(free: u64, total: u64, uuid: &str) -> String {
    format!("gpu {free} {total} 0 {uuid} NVIDIA Test\n")
}

fn three() -> String {
    UUIDS.iter().zip([11000, 12000, 13000]).map(|(uuid, free)| gpu(free, 24576, uuid)).collect()
}

#[test]
fn without_a_driver_there_is_a_line_and_no_error() {
    let (table, said) = Machine::new().auto();
    assert_eq!(table, Value::Null);
    assert!(said.contains("no NVIDIA driver was found"), "{said}");
    assert!(said.contains("no device map is planned"), "{said}");
}

#[test]
fn nvml_tells_the_free_memory_of_every_gpu() {
    let (table, said) = Machine::new().nvml("").auto();
    assert_eq!(table, Value::Null);
    assert!(said.contains("this machine has no NVIDIA GPU that its driver lists"), "{said}");

    let (table, said) = Machine::new().nvml(&gpu(23000, 24576, UUIDS[0])).auto();
    assert_eq!((table, said.as_str()), (json!({ "0": 23000 * MIB }), ""));

    // The second is in use by something else.
    let two = gpu(24576, 24576, UUIDS[0]) + &gpu(5000, 24576, UUIDS[1]);
    let (table, said) = Machine::new().nvml(&two).auto();
    assert_eq!((table, said.as_str()), (json!({ "0": 24576 * MIB, "1": 5000 * MIB }), ""));

    let eight: String = (0..8).map(|index| gpu(81000 - index, 81920, &format!("GPU-{index}"))).collect();
    let (table, _) = Machine::new().nvml(&eight).auto();
    let expected: Vec<u64> = (0..8).map(|index| (81000 - index) * MIB).collect();
    let found: Vec<u64> = (0..8).map(|index| table[index.to_string()].as_u64().unwrap()).collect();
    assert_eq!((found, table.as_object().unwrap().len()), (expected, 8));
}

#[test]
fn a_gpu_whose_query_fails_is_left_out_and_the_others_keep_their_numbers() {
    let script = gpu(11000, 12000, UUIDS[0])
        + "gpu 1000 2000 15 GPU-broken NVIDIA Broken\n"
        + "lost\n"
        + &gpu(13000, 14000, UUIDS[2]);
    let (table, said) = Machine::new().nvml(&script).var("CUDA_DEVICE_ORDER", "PCI_BUS_ID").auto();
    assert_eq!(table, json!({ "0": 11000 * MIB, "3": 13000 * MIB }));
    assert!(said.contains("GPU 1 (NVIDIA Broken) does not report its memory and is left out"), "{said}");
    assert!(said.contains("GPU 2 does not report its memory and is left out"), "{said}");
    let (table, said) = Machine::new().nvml("gpu 11000 12000 999 GPU-a A\n").auto();
    assert_eq!(table, Value::Null);
    assert!(said.contains("no GPU here says how much of its memory is free"), "{said}");
}

#[test]
fn nvml_that_does_not_start_gives_way_to_nvidia_smi() {
    // 9: the driver is not loaded.
    let broken = Machine::new().nvml("init 9\n");
    let (table, said) = broken.auto();
    assert_eq!(table, Value::Null);
    assert!(said.contains("the NVIDIA driver does not answer: NVML: "), "{said}");
    let (table, said) = broken.nvidia_smi("echo 'GPU-1, 7000, 9000, NVIDIA Test'").auto();
    assert_eq!((table, said.as_str()), (json!({ "0": 7000 * MIB }), ""));
    // A driver before 510 has no second version of the memory query.
    let old = Machine::new().compiled(&three(), &["-DOLD_DRIVER"]);
    let (table, _) = old.nvidia_smi("echo 'GPU-1, 6000, 9000, NVIDIA Test'").auto();
    assert_eq!(table, json!({ "0": 6000 * MIB }));
}

#[test]
fn nvidia_smi_is_asked_for_what_nvml_would_tell() {
    let query = r#"[ "$*" = "--query-gpu=uuid,memory.free,memory.total,name --format=csv,noheader,nounits" ] || exit 2"#;
    let listing = "echo 'GPU-a, 7100, 9000, NVIDIA X'\necho 'GPU-b, [N/A], [N/A], NVIDIA X'\necho 'GPU-c, 7300, 9000, NVIDIA X'";
    let machine = Machine::new().nvidia_smi(&format!("{query}\n{listing}"));
    let (table, said) = machine.auto();
    assert_eq!(table, json!({ "0": 7100 * MIB, "2": 7300 * MIB }));
    assert!(said.contains("GPU 1 (NVIDIA X) does not report its memory"), "{said}");
    let (table, _) = machine.var("CUDA_VISIBLE_DEVICES", "2,0").auto();
    assert_eq!(table, json!({ "0": 7300 * MIB, "1": 7100 * MIB }));
}

#[test]
fn an_nvidia_smi_that_fails_or_babbles_is_told_in_its_own_words() {
    for (script, told) in [
        ("echo 'NVIDIA-SMI has failed'; exit 9", "NVIDIA-SMI has failed"),
        ("echo one two three", "its answer is not the list that was asked for"),
        ("exit 3", "exit status: 3"),
    ] {
        let (table, said) = Machine::new().nvidia_smi(script).auto();
        assert_eq!(table, Value::Null, "{script}");
        assert!(said.contains(told), "{script}: {said}");
    }
}

#[test]
fn cuda_visible_devices_chooses_and_renumbers() {
    let free = |positions: &[u64]| {
        let entries = positions.iter().enumerate();
        let entries =
            entries.map(|(index, position)| (index.to_string(), json!((position + 11) * 1000 * MIB)));
        Value::Object(entries.collect())
    };
    for (value, expected) in [
        ("0", &[0][..]),
        ("1", &[1]),
        ("2,0", &[2, 0]),
        ("0,-1,1", &[0]),
        ("0,7,1", &[0]),
        ("GPU-cccc3333", &[2]),
        ("GPU-c,GPU-aaaa", &[2, 0]),
    ] {
        let (table, said) = Machine::new().nvml(&three()).var("CUDA_VISIBLE_DEVICES", value).auto();
        assert_eq!((table, said.as_str()), (free(expected), ""), "{value}");
    }
    for value in ["", "-1", "1,1", "GPU-aa", "GPU-zz", "NoDevFiles"] {
        let (table, said) = Machine::new().nvml(&three()).var("CUDA_VISIBLE_DEVICES", value).auto();
        assert_eq!(table, Value::Null, "{value}");
        assert!(said.contains("CUDA_VISIBLE_DEVICES hides 3 GPUs"), "{value}: {said}");
    }
    let (_, said) = Machine::new().nvml(&three()).var("CUDA_VISIBLE_DEVICES", "MIG-1").auto();
    assert!(said.contains("an instance of a partitioned GPU (MIG)"), "{said}");
}

#[test]
fn gpus_of_several_models_need_a_fixed_order() {
    let mixed = gpu(7100, 7200, UUIDS[0]) + "gpu 7300 7400 0 GPU-b NVIDIA Other\n";
    let (_, said) = Machine::new().nvml(&mixed).auto();
    assert!(said.contains("CUDA_DEVICE_ORDER=PCI_BUS_ID"), "{said}");
    let (table, said) = Machine::new().nvml(&mixed).var("CUDA_DEVICE_ORDER", "PCI_BUS_ID").auto();
    assert_eq!((table, said.as_str()), (json!({ "0": 7100 * MIB, "1": 7300 * MIB }), ""));
}

#[test]
fn doctor_holds_the_map_of_a_bundle_against_what_is_free() {
    let found =
        Command::new("sh").args(["-c", "command -v python3.11 || command -v python3"]).output().unwrap();
    let python = String::from_utf8(found.stdout).unwrap();
    let gpus = ["--gpus", "0=1217MB,1=400MiB", "--context", "64", "--reserve", "1MiB"];
    let findings = |machine: Machine| -> Vec<String> {
        machine.world.good(&[&["convert", "tiny", "--int8", "-o", "bundle"][..], &gpus].concat());
        let ran = machine.run(&["doctor", "bundle", "--python", python.trim(), "--json"]);
        let report = ran.json();
        assert_eq!(report["memory"].as_array().unwrap().len(), 2, "{}", ran.err);
        let findings = report["findings"].as_array().unwrap().iter();
        let findings = findings.map(|finding| finding["what"].as_str().unwrap().to_owned());
        findings.filter(|what| what.contains("map") || what.contains("GPU only")).collect()
    };
    let two = |free: u64| gpu(1250, 24576, UUIDS[0]) + &gpu(free, 24576, UUIDS[1]);
    assert_eq!(findings(Machine::new().nvml(&two(500))), Vec::<String>::new());
    let short = findings(Machine::new().nvml(&two(2)));
    assert!(short[0].starts_with("gpu 1 has 2.00 MiB free, and the map takes"), "{short:?}");
    let one = findings(Machine::new().nvml(&gpu(1250, 24576, UUIDS[0])));
    assert_eq!(one, ["the map uses gpu 1, which is not here"]);
    let none = ["an int8 bundle of MGM loads on a GPU only, and there is none here"];
    assert_eq!(findings(Machine::new()), none, "and nothing to compare the map with");
}

/// "serves no MGM family" stood below a bundle that never was one.
#[test]
fn doctor_says_which_families_are_served_only_where_that_is_a_question() {
    let machine = Machine::new();
    let norm = world::tensor("model.norm.weight", safetensors::Dtype::F32, &[4], vec![0; 16]);
    world::save(&machine.world.path("checkpoint"), &[&[norm]]);
    machine.world.good(&["convert", "checkpoint", "--fp16", "-o", "generic"]);
    machine.world.good(&["convert", "tiny", "--int8", "-o", "MGM-7B"]);
    let served = |arguments: &[&str]| machine.run(arguments).out.contains("serves ");
    assert!(served(&["doctor"]) && served(&["doctor", "MGM-7B"]));
    assert!(!served(&["doctor", "generic"]));
}

#[test]
fn generations_without_kernels_are_told_before_and_on_the_machine() {
    let world = World::new();
    world::save_zeros(&world.path("ckpt"), 2, 64, 64);
    let notices = |model: &str, scheme: &str, gpus: &str| {
        let plan = world.good(&["plan", model, scheme, "--gpus", gpus, "--json"]).json();
        plan["notices"].to_string()
    };
    let w8a8 = "vLLM has no kernel for W8A8 on compute capability";
    assert!(notices("ckpt", "--int8", "2xRTX-5090").contains(&format!("{w8a8} 12.0 (Blackwell)")));
    assert!(notices("ckpt", "--int8", "B200").contains(&format!("{w8a8} 10.0 (Blackwell)")));
    assert!(notices("ckpt", "--int8", "V100-32GB").contains(&format!("{w8a8} 7.0 (Volta)")));
    for served in ["H100", "RTX-4090", "T4", "24GiB"] {
        assert!(!notices("ckpt", "--int8", served).contains("kernel"), "{served}");
    }
    assert!(!notices("ckpt", "--bf16", "B200").contains("kernel"));
    assert!(
        notices("tiny", "--int8", "RTX-5090")
            .contains("torch 2.0.1 has no kernels for compute capability 12.0")
    );
    assert!(!notices("tiny", "--int8", "RTX-4090").contains("kernel"));
    let unknown = world.run(&["plan", "tiny", "--int8", "--gpus", "2xRTX-509"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("`RTX-509` is not a known GPU model; like it: RTX-5090"), "{}", unknown.err);

    // What NVML says of the GPU that is here.
    let found =
        Command::new("sh").args(["-c", "command -v python3.11 || command -v python3"]).output().unwrap();
    let python = String::from_utf8(found.stdout).unwrap();
    let machine = Machine::new().nvml(&(gpu(23000, 24576, UUIDS[0]) + "cc 12 0\n"));
    let auto = machine.run(&["plan", "tiny", "--int8", "--gpus", "auto", "--json"]).json();
    assert!(auto["notices"].to_string().contains("torch 2.0.1 has no kernels"), "{auto}");
    machine.world.good(&["convert", "tiny", "--int8", "-o", "bundle"]);
    let report = machine.run(&["doctor", "bundle", "--python", python.trim(), "--json"]).json();
    assert_eq!(report["devices"]["gpus"][0]["compute_capability"], "12.0");
    let findings = report["findings"].to_string();
    assert!(findings.contains("has no kernels for compute capability 12.0 (Blackwell)"), "{findings}");
    let card = fs::read_to_string(machine.world.path("bundle/README.md")).unwrap();
    assert!(card.contains("none for Blackwell (10.0, 12.0)"), "{card}");
}
