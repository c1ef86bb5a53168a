use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn around<'a>(image: &'a Value, names: &'a BTreeMap<String, String>) -> Surroundings<'a> {
    Surroundings {
        image,
        names,
        machine: "box",
    }
}

fn inspect(id: &str, volume: &str) -> Value {
    json!({
        "Id": id,
        "Image": "sha256:aa",
        "Config": {
            "Hostname": short(id),
            "Image": "reg:5000/shop:2",
            "AttachStdout": true,
            "Env": ["A=1"],
            "Labels": {"app": "shop", "sternway.order": id, "sternway.check.tcp": "80"},
            "Volumes": {"/data": {}},
            "OnBuild": null,
        },
        "HostConfig": {
            "Binds": null,
            "NetworkMode": "front",
            "ConsoleSize": [24, 80],
            "MaskedPaths": [],
            "Memory": 0,
            "OomKillDisable": false,
            "PidsLimit": null,
            "ShinyNewThing": {"a": 1},
        },
        "Mounts": [{"Type": "volume", "Name": volume, "Destination": "/data", "RW": true}],
        "NetworkSettings": {"Networks": {"front": {
            "Aliases": ["web", short(id)],
            "IPAMConfig": null,
            "IPAddress": "172.18.0.2",
            "NetworkID": "x",
            "GwPriority": 0,
        }}},
    })
}

fn recorded(inspect: &Value) -> (ContainerRecord, Hints) {
    let image = json!({"RepoDigests": ["a/b@sha256:1", "reg:5000/shop@sha256:2"], "Config": {}});
    let names = BTreeMap::new();
    normalise(inspect, around(&image, &names))
}

#[test]
fn the_same_deployment_again_yields_the_same_bytes() {
    let other = ID.replace('0', "7");
    let (one, hints) = recorded(&inspect(ID, &"a".repeat(64)));
    let (again, _) = recorded(&inspect(&other, &"b".repeat(64)));
    assert_eq!(one.to_bytes(), again.to_bytes());
    assert_eq!(hints.volumes["/data"], "a".repeat(64));
    assert_eq!(hints.digests[0], "reg:5000/shop@sha256:2");
}

#[test]
fn a_restored_container_is_the_same_revision() {
    let volume = "a".repeat(64);
    let (one, _) = recorded(&inspect(ID, &volume));
    let mut restored = inspect(ID, &volume);
    restored["Config"]["Image"] = json!("sha256:aa");
    restored["Config"]["Labels"]["sternway.image"] = json!("reg:5000/shop:2");
    restored["Config"]["Labels"]["sternway.role"] = json!("replacement");
    restored["HostConfig"]["Binds"] = json!([format!("{volume}:/data")]);
    let (again, hints) = recorded(&restored);
    assert_eq!(one.to_bytes(), again.to_bytes());
    assert_eq!(hints.volumes["/data"], volume);
}

#[test]
fn what_people_set_and_what_is_unknown_is_kept() {
    let (record, _) = recorded(&inspect(ID, &"a".repeat(64)));
    let kept = json!(record);
    assert_eq!(kept["host"]["ShinyNewThing"], json!({"a": 1}));
    assert_eq!(kept["host"]["MaskedPaths"], json!([]));
    assert_eq!(kept["host"]["OomKillDisable"], json!(false));
    assert_eq!(
        kept["config"]["Labels"],
        json!({"app": "shop", "sternway.check.tcp": "80"})
    );
    assert_eq!(kept["networks"], json!({"front": {"Aliases": ["web"]}}));
    for absent in ["Memory", "PidsLimit", "ConsoleSize", "Binds"] {
        assert!(kept["host"].get(absent).is_none(), "{absent}");
    }
    assert!(kept["config"].get("Hostname").is_none());
}

#[test]
fn another_containers_namespace_is_recorded_by_name() {
    let mut one = inspect(ID, &"a".repeat(64));
    let other = "f".repeat(64);
    one["HostConfig"]["NetworkMode"] = json!(format!("container:{other}"));
    one["HostConfig"]["IpcMode"] = json!(format!("container:{other}"));
    one["Config"]["Hostname"] = json!("somebody");
    let image = json!({"Config": {}});
    let names = BTreeMap::from([(other, "db".to_owned())]);
    let (record, _) = normalise(&one, around(&image, &names));
    assert_eq!(record.shares_with(), ["db", "db"]);
    assert!(record.networks.is_empty());
    assert!(!record.config.contains_key("Hostname"));
}

#[test]
fn mounts_of_other_containers_and_links_are_recorded_as_given() {
    let mut one = inspect(ID, &"a".repeat(64));
    let foreign = "c".repeat(64);
    one["HostConfig"]["VolumesFrom"] = json!(["db:ro"]);
    one["HostConfig"]["Links"] = json!(["/db:/web/database"]);
    one["Mounts"] = json!([
        {"Type": "volume", "Name": foreign, "Destination": "/shared", "RW": false},
        {"Type": "bind", "Source": "/srv", "Destination": "/srv", "RW": true},
    ]);
    let (record, _) = recorded(&one);
    let binds = json!([format!("{foreign}:/shared:ro"), "/srv:/srv"]);
    assert_eq!(record.host["Binds"], binds);
    assert_eq!(record.host["Links"], json!(["db:database"]));
    assert!(!record.host.contains_key("VolumesFrom"));
}

#[test]
fn a_name_the_engine_filled_in_is_not_pinned() {
    let hostname = |mode: &str, name: &str| {
        let mut one = inspect(ID, &"a".repeat(64));
        one["HostConfig"]["NetworkMode"] = json!(mode);
        one["Config"]["Hostname"] = json!(name);
        recorded(&one).0.config.contains_key("Hostname")
    };
    assert!(!hostname("host", "box"));
    assert!(hostname("host", "chosen"));
    assert!(hostname("front", "box"));
}

#[test]
fn strange_answers_yield_a_record_and_no_panic() {
    for strange in [
        json!(null),
        json!([]),
        json!({"Config": 7, "HostConfig": "x"}),
        json!({"Mounts": {}}),
        json!({"Id": "é", "NetworkSettings": {"Networks": {"n": 3}}}),
    ] {
        let (record, _) = recorded(&strange);
        assert!(record.to_bytes().is_ok());
    }
}

#[test]
fn repositories_are_told_from_tags_and_ports() {
    assert_eq!(repository_of("reg:5000/shop:2"), "reg:5000/shop");
    assert_eq!(repository_of("reg:5000/shop"), "reg:5000/shop");
    assert_eq!(repository_of("reg:5000/shop@sha256:1"), "reg:5000/shop");
    assert_eq!(bind_parts("a:/b:ro"), ("a", "/b"));
}

#[test]
fn mounts_of_another_container_keep_their_options() {
    let mut inspect = inspect(ID, &"a".repeat(64));
    inspect["Mounts"] = json!([
        {"Type": "bind", "Source": "/a", "Destination": "/1", "Mode": "", "RW": true, "Propagation": "rprivate"},
        {"Type": "bind", "Source": "/a", "Destination": "/2", "Mode": "ro,Z", "RW": false, "Propagation": "rslave"},
        {"Type": "volume", "Name": "v", "Destination": "/3", "Mode": "z", "RW": true, "Propagation": ""},
        {"Type": "volume", "Name": "v", "Destination": "/4", "Mode": "ro,nocopy", "RW": false},
    ]);
    let (record, _) = recorded(&inspect);
    assert_eq!(
        record.host["Binds"],
        json!(["/a:/1", "/a:/2:ro,Z,rslave", "v:/3", "v:/4:ro,nocopy"])
    );
}
