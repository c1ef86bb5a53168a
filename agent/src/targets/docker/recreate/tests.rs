use super::{
    super::record::{ImageRef, SCHEMA},
    *,
};

fn settings(value: Value) -> Settings {
    serde_json::from_value(value).expect("an object")
}

fn record() -> ContainerRecord {
    ContainerRecord {
        schema: SCHEMA,
        image: ImageRef {
            reference: "shop:1".to_owned(),
            id: "sha256:aa".to_owned(),
        },
        config: settings(json!({
            "Labels": {"app": "shop"},
            "MacAddress": "02:42:ac:11:00:99",
            "Volumes": {"/data": {}},
        })),
        host: settings(json!({
            "NetworkMode": "front",
            "PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
            "RestartPolicy": {"Name": "always"},
            "Mounts": [{"Type": "volume", "Target": "/mounted"}],
            "ShinyNewThing": {"a": 1},
        })),
        networks: BTreeMap::from([
            (
                "back".to_owned(),
                settings(json!({"Aliases": ["db"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}})),
            ),
            (
                "front".to_owned(),
                settings(json!({"IPAMConfig": {"IPv4Address": "10.1.0.9"}})),
            ),
        ]),
    }
}

fn options(publish: bool, restarts: bool) -> CreateOptions {
    CreateOptions {
        name: "web".to_owned(),
        labels: BTreeMap::from([(labels::ORDER.to_owned(), "o1".to_owned())]),
        restarts,
        publish,
        volumes: BTreeMap::from([
            ("/data".to_owned(), "v1".to_owned()),
            ("/mounted".to_owned(), "v2".to_owned()),
        ]),
    }
}

#[test]
fn an_old_engine_gets_one_endpoint_and_the_rest_before_the_start() {
    let made = creation(&record(), "shop:1", &options(true, true), ApiVersion(41));
    let endpoints = &made.body["NetworkingConfig"]["EndpointsConfig"];
    assert_eq!(endpoints.as_object().map(Map::len), Some(1));
    assert_eq!(endpoints["front"]["IPAMConfig"]["IPv4Address"], "10.1.0.9");
    assert_eq!(made.body["MacAddress"], "02:42:ac:11:00:99");
    assert_eq!(made.connect.len(), 1);
    assert_eq!(made.connect[0].0, "back");
}

#[test]
fn a_new_engine_gets_all_endpoints_and_the_mac_address_in_its_own() {
    let made = creation(&record(), "shop:1", &options(true, true), ApiVersion(44));
    let endpoints = &made.body["NetworkingConfig"]["EndpointsConfig"];
    assert_eq!(endpoints["front"]["MacAddress"], "02:42:ac:11:00:99");
    assert_eq!(endpoints["back"]["Aliases"], json!(["db"]));
    assert!(made.body.get("MacAddress").is_none());
    assert!(made.connect.is_empty());
}

#[test]
fn a_standby_holds_nothing_that_can_be_held_once() {
    let made = creation(&record(), "shop:1", &options(false, false), ApiVersion(41));
    let host = &made.body["HostConfig"];
    assert_eq!(
        host["PortBindings"],
        json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]})
    );
    assert_eq!(host["RestartPolicy"], json!({"Name": "no"}));
    assert_eq!(host["NetworkMode"], "front");
    assert!(made.body.get("MacAddress").is_none());
    assert_eq!(made.connect[0].1, json!({}), "nobody finds it by a name");
    assert_eq!(
        made.body["NetworkingConfig"]["EndpointsConfig"],
        json!({"front": {}})
    );
}

#[test]
fn volumes_are_carried_by_name_and_unknown_settings_forwarded() {
    let made = creation(&record(), "shop:1", &options(true, true), ApiVersion(41));
    let host = &made.body["HostConfig"];
    assert_eq!(host["Binds"], json!(["v1:/data"]));
    assert_eq!(host["Mounts"][0]["Source"], "v2");
    assert_eq!(host["ShinyNewThing"], json!({"a": 1}));
    assert_eq!(made.body["Volumes"], json!({"/data": {}}));
}

#[test]
fn an_image_that_lost_its_tag_is_remembered_by_label() {
    let by_id = creation(&record(), "sha256:aa", &options(true, true), ApiVersion(41));
    assert_eq!(by_id.body["Image"], "sha256:aa");
    assert_eq!(by_id.body["Labels"][labels::IMAGE], "shop:1");
    let by_tag = creation(&record(), "shop:1", &options(true, true), ApiVersion(41));
    assert_eq!(
        by_tag.body["Labels"],
        json!({"app": "shop", "sternway.order": "o1"})
    );
}

#[test]
fn a_setting_the_engine_dropped_is_told() {
    let wanted = creation(&record(), "shop:1", &options(true, true), ApiVersion(41));
    let mut found = json!({
        "Config": wanted.body,
        "HostConfig": wanted.body["HostConfig"],
        "NetworkSettings": {"Networks": {"front": {}, "back": {}}},
    });
    assert!(lost(&wanted, &found).is_empty());
    found["HostConfig"]["ShinyNewThing"] = Value::Null;
    found["NetworkSettings"]["Networks"] = json!({"front": {}});
    assert_eq!(
        lost(&wanted, &found),
        ["host.ShinyNewThing", "networks.back"]
    );
}
