//! A peer that stops answering and closes nothing: stopped in its tracks, its connection open, its kernel
//! acknowledging whatever is sent.

use rustix::process::Signal;
use sternway_tests::{
    stage::{SETTLES, Stage},
    wait::until,
};

#[tokio::test]
async fn an_agent_that_stops_answering_is_offline_until_it_answers_again() {
    let mut stage = Stage::new().await;
    stage.agent.process().signal(Signal::STOP);
    stage.host_is("offline").await;
    stage.agent.process().signal(Signal::CONT);
    stage.online().await;
}

#[tokio::test]
async fn an_agent_gives_up_a_controller_that_stops_answering_and_comes_back_to_it() {
    let mut stage = Stage::new().await;
    let before = stage.agent.process().log().len();
    stage.controller.process().signal(Signal::STOP);
    until("the agent to notice", SETTLES, async || {
        let log = stage.agent.process().log();
        let said = log.get(before..).unwrap_or_default();
        said.contains("nothing was heard from the controller")
            .then_some(())
            .ok_or(log)
    })
    .await;
    stage.controller.process().signal(Signal::CONT);
    stage.online().await;
}
