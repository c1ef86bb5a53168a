//! What is typed on the controller's machine while the controller runs.

use sternway_tests::{controller::Controller, engine::Scope, stage::SETTLES, wait::until};

/// A command on the controller's machine: whether it succeeded, and what it said on both its outputs.
fn beside(controller: &Controller, subcommand: &str, arguments: &[&str]) -> (bool, String) {
    let output = controller
        .command(subcommand)
        .args(arguments)
        .output()
        .expect("the controller's binary starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

fn done(controller: &Controller, subcommand: &str, arguments: &[&str]) -> String {
    let (success, said) = beside(controller, subcommand, arguments);
    assert!(success, "{subcommand} {arguments:?}: {said}");
    said
}

/// Name and state of each certificate that a table lists.
fn listed(table: &str) -> Vec<(String, String)> {
    let cell = |line: &str, at: usize| line.split_whitespace().nth(at).map(str::to_owned);
    table
        .lines()
        .skip(1)
        .filter_map(|line| Some((cell(line, 0)?, cell(line, 4)?)))
        .collect()
}

#[tokio::test]
async fn operators_are_managed_and_a_copy_is_made_while_the_controller_runs() {
    let scope = Scope::new().await;
    let mut controller = Controller::new(&scope).await;
    let tester = controller.ctl();
    let bob = controller.operator("bob", "viewer");
    bob.json(&["status"]).await;

    let all = listed(&done(&controller, "operator", &["ls"]));
    let owned = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    assert_eq!(all, [owned("bob", "valid"), owned("tester", "valid")]);

    let copy = controller.folder().join("copy");
    let copy = copy.to_str().expect("text").to_owned();
    done(&controller, "backup", &[&copy]);
    let (again, said) = beside(&controller, "backup", &[&copy]);
    assert!(!again && said.contains("is there already"), "{said}");

    let said = done(
        &controller,
        "operator",
        &["revoke", "bob", "--reason", "stolen"],
    );
    assert!(
        said.contains("revoked") && said.contains("within 10 s"),
        "{said}"
    );
    until("bob to be refused", SETTLES, async || {
        let said = bob.run(&["status"]).await;
        (said.code == 4).then_some(()).ok_or(format!("{said:?}"))
    })
    .await;
    let said = bob.run(&["status"]).await.exits(4);
    assert!(
        said.stderr.contains("your certificate was revoked"),
        "{said:?}"
    );
    let said = done(&controller, "operator", &["revoke", "dave"]);
    assert!(said.contains("not in the list: compare it"), "{said}");
    let said = done(&controller, "operator", &["ls"]);
    assert!(said.contains("\ndave was revoked by name at 20"), "{said}");
    let (success, said) = beside(&controller, "operator", &["revoke", "no such"]);
    assert!(!success && said.contains("operator ls"), "{said}");

    let verified = tester.run(&["record", "verify"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let record = tester.json(&["record", "ls"]).await.to_string();
    for action in ["operator.issued", "operator.revoked"] {
        assert!(record.contains(action), "{record}");
    }

    // The copy is from before, and a whole folder to work on.
    controller.kill();
    let of_copy = done(&controller, "operator", &["ls", "--data-dir", &copy]);
    assert_eq!(listed(&of_copy), all);
    let said = done(
        &controller,
        "operator",
        &["revoke", "bob", "--data-dir", &copy],
    );
    assert_eq!(listed(&said)[0], owned("bob", "revoked"));
}
