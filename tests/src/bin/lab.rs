//! Raises a lab for a person to play with: `make lab`. `make lab-down` takes it away.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a tool for developers, which says what it did or fails and says why"
)]

use std::{env, fs, path::PathBuf, time::Instant};

use futures_util::future::join_all;
use sternway_tests::{
    binary,
    engine::Scope,
    lab::{
        Fleet,
        Generation::{Bookworm, Trixie},
        Host, Lab,
    },
    shop::Image,
};

/// The first part of the names of its containers.
const NAME: &str = "lab";

/// A deployment by the runbook, for a person to break something with.
const DEPLOY: &str = "#!/bin/sh -e
# deploy-shop v1|v2
docker rm -f shop >/dev/null 2>&1 || true
docker run -d --name shop --restart=always -p 8080:8080 shop:\"${1:?v1 or v2}\"
";

#[tokio::main]
async fn main() {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.expect("usage: lab FOLDER");
    fs::create_dir_all(&folder).expect("the folder of the lab is made");
    let folder = folder.canonicalize().expect("the folder is there");
    let began = Instant::now();
    let scope = Scope::for_a_person(NAME, folder).await;
    let fleet = Fleet::new()
        .with_a_way_out()
        .docker("web-1", Bookworm)
        .docker("web-2", Bookworm)
        .docker("web-3", Trixie)
        .vm("vm-1", Bookworm)
        .vm("vm-2", Bookworm)
        .vm("vm-3", Trixie);
    let lab = Lab::raise(scope, fleet).await;
    let web: Vec<&Host> = lab
        .hosts()
        .filter(|host| host.name().starts_with("web-"))
        .collect();
    for image in [Image::good("v1"), Image::bad("v2", "health")] {
        let name = format!("sternway-lab-shop:{}", image.version);
        image.make(&name, &lab.scope.labels()).await;
        for host in &web {
            host.load(&name).await;
            let short = format!("shop:{}", image.version);
            host.run(&["docker", "tag", &name, &short]).await.ok();
        }
    }
    join_all(web.iter().map(|host| deploy_v1(host))).await;
    say(&lab, began);
}

async fn deploy_v1(host: &Host) {
    let path = "/usr/local/bin/deploy-shop";
    host.write(path, DEPLOY).await;
    host.run(&["chmod", "755", path]).await.ok();
    host.run(&["deploy-shop", "v1"]).await.ok();
}

fn say(lab: &Lab, began: Instant) {
    let ctl = binary::find("ctl");
    let programs = ctl.parent().expect("a program lies in a folder");
    let config = lab.scope.folder().join("operator/ctl.toml");
    println!("The lab is up ({} s).\n", began.elapsed().as_secs());
    for host in lab.hosts() {
        let (name, generation, address) = (host.name(), host.generation(), host.address());
        println!("  {name:6} {generation:9} {address:14} docker exec -it {NAME}-{name} bash");
    }
    println!(
        "
Be its operator:
  export STERNWAY_CONFIG={}
  export PATH={}:$PATH
  ctl host ls

Break something, and take it back:
  docker exec {NAME}-web-1 deploy-shop v2
  ctl target ls
  ctl rollback --host web-1

`make lab-down` takes it away.",
        config.display(),
        programs.display()
    );
}
