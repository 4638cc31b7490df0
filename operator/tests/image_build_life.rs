//! Scenarios of the life of an ImageBuild: from the resource to a digest in its status, and what happens after.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{
    annotate, build, built, commit, digest, git, inline, look, path, push_commit, request_of,
    set_spec, succeed,
};
use build_world::{World, conditions, message, pass};
use operator::git::GitError;
use protocol::Task;
use serde_json::{Value, json};

#[tokio::test]
async fn from_a_resource_to_a_digest_and_then_nothing_is_written() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    assert_eq!(
        conditions(&build(&world)),
        [
            "Ready=Unknown Building",
            "Reconciling=True Building",
            "Succeeded=Unknown Building",
            "UpToDate=False Building"
        ]
    );
    let pod = world.pod();
    let request = request_of(&world, &pod);
    let Task::Build(task) = &request.task else {
        panic!("no build");
    };
    assert_eq!(
        task.destinations[0].repository,
        "main.team.svc:5000/team/app"
    );
    assert_eq!(request.plain_http, ["main.team.svc:5000"]);
    assert_eq!(request.credentials.len(), 1);

    world.run(&pod);
    look(&world).await;
    pass(30);
    let digest = succeed(&world, &pod, "image");
    let finished = look(&world).await;
    assert!(finished.error.is_none(), "{finished:?}");
    let status = build(&world)["status"].clone();
    assert_eq!(
        conditions(&build(&world)),
        [
            "Ready=True Succeeded",
            "Succeeded=True Succeeded",
            "UpToDate=True Succeeded",
            "Verified=True Succeeded"
        ]
    );
    assert_eq!(
        status["image"],
        format!("main.team.svc:5000/team/app@{digest}")
    );
    assert_eq!(status["digest"], digest.to_string());
    assert_eq!(status["size"], 1234);
    assert_eq!(
        status["destinations"],
        json!([{"name": "main", "image": "main.team.svc:5000/team/app:latest", "digest": digest.to_string(), "verified": "True"}])
    );
    assert_eq!(status["builtGeneration"], 1);
    assert_eq!(status["isolation"]["mode"], "UserNamespace");
    let record = &status["builds"][0];
    assert_eq!(
        (&record["name"], &record["result"], &record["steps"]),
        (&json!(pod), &json!("Succeeded"), &json!(5))
    );
    assert_eq!(record["cachedSteps"], 2);
    assert_eq!(
        record["cacheMisses"],
        json!([{"step": "Dockerfile:3: COPY . /src", "reason": "file main.c"}])
    );
    assert_eq!(world.events(), ["Building", "Succeeded"]);
    // Plain HTTP and the Registry's credentials, for the Registry only.
    assert!(
        world
            .network
            .asked
            .lock()
            .unwrap()
            .iter()
            .all(|(_, plain, credentials)| *plain && *credentials == 1)
    );

    support::rights::assert_within_rights(&world.api);
    world.api.writes();
    for _ in 0..10 {
        pass(600);
        look(&world).await;
    }
    assert_eq!(world.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_digest_that_the_registry_does_not_have_is_refused() {
    for other in [false, true] {
        let world = World::new();
        inline(&world, &json!({}));
        look(&world).await;
        let pod = world.pod();
        let claimed = digest("claimed");
        if other {
            // The digest is there, but the tag is something else.
            world
                .network
                .push("main.team.svc:5000/team/app:latest", &claimed);
            world
                .network
                .push("main.team.svc:5000/team/app:latest", &digest("other"));
        }
        world.end(&pod, &built(&claimed));
        look(&world).await;
        assert_eq!(
            conditions(&build(&world))[..2],
            [
                "Ready=False VerificationFailed",
                "Stalled=True VerificationFailed"
            ]
        );
        assert_eq!(build(&world)["status"]["image"], Value::Null);
        pass(3600);
        look(&world).await;
        assert_eq!(world.pods().len(), 1, "it is not tried again by itself");
    }
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached_leaves_verified_unknown_until_it_can() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    *world.network.unreachable.lock().unwrap() = true;
    succeed(&world, &world.pod(), "image");
    let finished = look(&world).await;
    let now = conditions(&build(&world));
    assert!(now.contains(&"Ready=True Succeeded".to_owned()), "{now:?}");
    assert!(
        now.contains(&"Verified=Unknown VerificationPending".to_owned()),
        "{now:?}"
    );
    assert!(finished.requeue.unwrap().as_secs() <= 60);
    *world.network.unreachable.lock().unwrap() = false;
    look(&world).await;
    assert!(conditions(&build(&world)).contains(&"Verified=True Succeeded".to_owned()));
    world.api.writes();
    look(&world).await;
    assert_eq!(world.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_new_commit_waits_for_the_running_build_and_is_built_then() {
    let world = World::new();
    push_commit(&world, 'a');
    git(&world, &json!({}));
    look(&world).await;
    let first = world.pod();
    world.run(&first);
    push_commit(&world, 'b');
    annotate(&world, "requestedAt", "1");
    look(&world).await;
    assert_eq!(
        world.pods(),
        std::slice::from_ref(&first),
        "the running build goes on"
    );
    let image = succeed(&world, &first, "one");
    look(&world).await;
    let status = build(&world)["status"].clone();
    assert_eq!(status["digest"], image.to_string(), "the first is recorded");
    assert_eq!(
        status["source"],
        json!({"commit": commit('a'), "branch": "main"})
    );
    assert_eq!(status["lastHandledRequestedAt"], "1");
    let pods = world.pods();
    assert_eq!(pods.len(), 2, "the new commit is built at once");
    let second = pods.iter().find(|pod| **pod != first).unwrap();
    let image = succeed(&world, second, "two");
    look(&world).await;
    let status = build(&world)["status"].clone();
    assert_eq!(status["digest"], image.to_string());
    assert_eq!(status["source"]["commit"], commit('b'));
    assert_eq!(status["builds"][0]["reason"], "Source");
    assert_eq!(status["builds"][1]["reason"], "Spec");
}

#[tokio::test]
async fn the_git_server_is_asked_once_in_an_interval() {
    let world = World::new();
    push_commit(&world, 'a');
    git(&world, &json!({}));
    look(&world).await;
    succeed(&world, &world.pod(), "one");
    for _ in 0..5 {
        look(&world).await;
    }
    assert_eq!(*world.network.lookups.lock().unwrap(), 1);
    annotate(&world, "requestedAt", "now");
    look(&world).await;
    assert_eq!(*world.network.lookups.lock().unwrap(), 2);
}

#[tokio::test]
async fn a_revision_that_is_missing_stalls_and_an_image_of_before_stays() {
    let world = World::new();
    let missing = GitError::RevisionNotFound("branch main".into());
    *world.network.commit.lock().unwrap() = Some(Err(missing.clone()));
    git(&world, &json!({}));
    let finished = look(&world).await;
    assert_eq!(
        conditions(&build(&world)),
        [
            "Ready=False RevisionNotFound",
            "Stalled=True RevisionNotFound",
            "Succeeded=Unknown RevisionNotFound",
            "UpToDate=False RevisionNotFound"
        ]
    );
    assert!(message(&build(&world)).contains("branch main"));
    assert!(finished.requeue.unwrap().as_secs() <= 10);
    push_commit(&world, 'a');
    annotate(&world, "requestedAt", "1");
    look(&world).await;
    succeed(&world, &world.pod(), "one");
    look(&world).await;

    *world.network.commit.lock().unwrap() = Some(Err(missing));
    annotate(&world, "requestedAt", "2");
    look(&world).await;
    let now = conditions(&build(&world));
    assert!(now.contains(&"Ready=True Succeeded".to_owned()), "{now:?}");
    assert!(
        now.contains(&"UpToDate=Unknown RevisionNotFound".to_owned()),
        "{now:?}"
    );
}

#[tokio::test]
async fn a_change_of_the_spec_stops_the_running_build() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    let first = world.pod();
    world.run(&first);
    look(&world).await;
    set_spec(&world, "/dockerfile/inline", json!("FROM scratch\nENV A=1"));
    look(&world).await;
    assert_eq!(world.pods(), Vec::<String>::new(), "it was deleted");
    assert_eq!(
        conditions(&build(&world))[..2],
        ["Ready=False Superseded", "Reconciling=True Superseded"]
    );
    look(&world).await;
    let second = world.pod();
    assert_ne!(first, second);
    let status = build(&world)["status"].clone();
    let result = |name: &str| {
        status["builds"]
            .as_array()
            .unwrap()
            .iter()
            .find(|b| b["name"] == name)
            .unwrap()["result"]
            .clone()
    };
    assert_eq!(result(&first), "Cancelled");
    assert_eq!(result(&second), "Running");
    succeed(&world, &second, "two");
    look(&world).await;
    assert_eq!(build(&world)["status"]["builtGeneration"], 2);
}

#[tokio::test]
async fn suspend_stops_new_builds_and_not_a_running_one() {
    let world = World::new();
    inline(&world, &json!({"suspend": true}));
    look(&world).await;
    assert_eq!(world.pods(), Vec::<String>::new());
    assert!(conditions(&build(&world)).contains(&"Ready=False Suspended".to_owned()));
    set_spec(&world, "/suspend", json!(false));
    look(&world).await;
    let pod = world.pod();
    world.run(&pod);
    set_spec(&world, "/suspend", json!(true));
    look(&world).await;
    assert_eq!(world.pods(), std::slice::from_ref(&pod), "it goes on");
    succeed(&world, &pod, "one");
    look(&world).await;
    assert!(conditions(&build(&world)).contains(&"Ready=True Succeeded".to_owned()));
    set_spec(&world, "/dockerfile/inline", json!("FROM scratch\nENV A=1"));
    look(&world).await;
    let now = conditions(&build(&world));
    assert!(now.contains(&"Ready=False Suspended".to_owned()), "{now:?}");
    assert!(
        now.contains(&"UpToDate=False Suspended".to_owned()),
        "{now:?}"
    );
}

#[tokio::test]
async fn force_at_builds_again_once() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    succeed(&world, &world.pod(), "one");
    look(&world).await;
    annotate(&world, "forceAt", "x");
    look(&world).await;
    assert_eq!(world.pods().len(), 2);
    assert_eq!(build(&world)["status"]["lastHandledForceAt"], "x");
    assert_eq!(build(&world)["status"]["builds"][0]["reason"], "Forced");
    let attempt = build(&world)["status"]["attempt"]["pod"].clone();
    succeed(&world, attempt.as_str().unwrap(), "two");
    look(&world).await;
    // Taking the annotation away is no wish.
    world.api.change(&path(), |build| {
        build["metadata"]["annotations"] = json!({});
    });
    look(&world).await;
    look(&world).await;
    assert_eq!(world.pods().len(), 2);
}

#[tokio::test]
async fn old_pods_are_deleted_and_their_records_stay() {
    let world = World::new();
    inline(&world, &json!({"history": {"succeeded": 1, "failed": 1}}));
    for round in 0..4 {
        annotate(&world, "forceAt", &round.to_string());
        look(&world).await;
        let attempt = build(&world)["status"]["attempt"]["pod"].clone();
        let pod = attempt.as_str().unwrap();
        world.run(pod);
        pass(60);
        if round % 2 == 0 {
            succeed(&world, pod, "one");
        } else {
            world.fail(pod, "StepFailed", "no");
        }
        look(&world).await;
        look(&world).await;
        pass(60);
    }
    assert_eq!(world.pods().len(), 2, "one of each");
    let status = build(&world)["status"].clone();
    assert_eq!(status["builds"].as_array().unwrap().len(), 4);
    let image = status["digest"].clone();
    assert_eq!(
        image,
        digest("one").to_string(),
        "a failure keeps the image"
    );
}

#[tokio::test]
async fn a_certificate_of_the_git_secret_goes_with_the_request() {
    let world = World::new();
    push_commit(&world, 'a');
    world.api.put(
        &build_world::core("secrets", "git"),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {},
            "data": {"username": "dQ==", "password": "cA==", "ca.crt": "UEVN"}}),
    );
    git(
        &world,
        &json!({"source": {"git": {"url": "https://git.example.com/a.git", "ref": {"branch": "main"},
            "secretRef": {"name": "git"}}}}),
    );
    look(&world).await;
    let pod = world.pod();
    let request = request_of(&world, &pod);
    assert_eq!(request.network.ca_certificates.as_deref(), Some("PEM"));
    let Task::Build(task) = &request.task else {
        panic!("no build");
    };
    let protocol::Source::Git {
        revision,
        credentials,
        ..
    } = &task.source
    else {
        panic!("no git source");
    };
    assert!(credentials);
    assert_eq!(revision.commit, commit('a'));
    assert_eq!(revision.reference.as_deref(), Some("refs/heads/main"));
    assert_eq!(task.destinations[0].tags, ["aaaaaaa", "branch-main"]);
    let text = request.to_json();
    assert!(!text.contains("dQ==") && !text.contains("\"p\""), "{text}");
}

#[tokio::test]
async fn an_index_is_believed_with_all_its_images() {
    for complete in [true, false] {
        let world = World::new();
        let platforms = json!(["linux/amd64", "linux/arm64"]);
        inline(
            &world,
            &json!({"dockerfile": {"inline": "FROM scratch", "platforms": platforms}}),
        );
        look(&world).await;
        let pod = world.pod();
        let Task::Build(task) = request_of(&world, &pod).task else {
            panic!("no build")
        };
        assert_eq!(task.dockerfile.platforms, ["linux/amd64", "linux/arm64"]);
        let (index, amd64, arm64) = (digest("index"), digest("amd64"), digest("arm64"));
        let mut report = built(&index);
        report["built"]["platforms"] = json!([
            {"platform": "linux/amd64", "digest": amd64.to_string(), "size": 1000},
            {"platform": "linux/arm64", "digest": arm64.to_string(), "size": 234},
        ]);
        let name = "main.team.svc:5000/team/app:latest";
        world.network.push(name, &amd64);
        if complete {
            world.network.push(name, &arm64);
        }
        world.network.push(name, &index);
        world.end(&pod, &report);
        look(&world).await;
        let status = build(&world)["status"].clone();
        if complete {
            assert_eq!(status["platforms"], report["built"]["platforms"]);
            assert_eq!(status["digest"], index.to_string());
        } else {
            assert!(status["platforms"].is_null());
            assert!(
                message(&build(&world)).contains(&format!("{arm64} does not exist")),
                "{}",
                message(&build(&world))
            );
        }
    }
}
