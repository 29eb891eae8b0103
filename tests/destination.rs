//! What a destination does beside taking uploads: listing, looking, reading, deleting.

mod support;

use std::time::Duration;

use gitlab_pi_backup::destination::LONGEST_RANGE;
use gitlab_pi_backup::destination::dropbox::{Dropbox, Settings};
use gitlab_pi_backup::error::ErrorKind;
use gitlab_pi_backup::retry::Patience;
use gitlab_pi_backup::settings::Reader;
use support::dropbox::{Dropbox as StandIn, Fault, Options, What};

fn client(stand_in: &StandIn) -> Dropbox {
    let Options {
        app_key,
        refresh_token,
        ..
    } = Options::default();
    let url = stand_in.url();
    let text = format!(
        "app_key = \"{app_key}\"\nrefresh_token = \"{refresh_token}\"\napi_url = \"{url}\"\ncontent_url = \"{url}\"\n"
    );
    let mut reader = Reader::new(&text, [], None);
    let mut root = reader.root();
    let settings = Settings::read("test", &mut root).expect("settings");
    root.finish();
    assert!(reader.finish().is_empty());
    Dropbox::new("test", settings, Duration::from_secs(5), 1)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(future)
}

fn patience() -> Patience {
    Patience::new(Duration::from_secs(5))
}

#[test]
fn a_listing_is_followed_to_its_last_page() {
    let options = Options {
        list_page: 3,
        list_empty_page: true,
        ..Options::default()
    };
    let stand_in = StandIn::start(options);
    for number in 0..10 {
        stand_in.put_file(&format!("/Data/{number}"), &[7; 3]);
    }
    stand_in.put_folder("/Data/folder");
    stand_in.fault(Fault::on("list_folder/continue", What::LostReply).skip(1));
    run(async {
        let client = client(&stand_in);
        let mut found = client
            .list("/Data", &patience())
            .await
            .expect("a listing")
            .expect("a folder");
        found.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(found.len(), 11);
        assert_eq!(found[3].file.as_ref().map(|file| file.size), Some(3));
        assert_eq!(
            (found[10].name.as_str(), found[10].file.is_none()),
            ("folder", true)
        );
        assert_eq!(
            client
                .list("/Nothing", &patience())
                .await
                .expect("an answer"),
            None
        );
    });
}

#[test]
fn ranges_are_read_and_the_end_is_the_end() {
    let stand_in = StandIn::start(Options::default());
    let content: Vec<u8> = (0..6_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    stand_in.put_file("/Data/ä \u{1f600}.tar", &content);
    run(async {
        let client = client(&stand_in);
        let read = async |offset, len| {
            client
                .read("/Data/ä \u{1f600}.tar", offset, len, &patience())
                .await
        };
        assert!(read(10, 1_000).await.expect("a part") == content[10..1_010]);
        let longest = read(0, u64::MAX).await.expect("the longest part");
        assert!(longest.len() as u64 == LONGEST_RANGE && content.starts_with(&longest));
        assert!(read(5_999_990, 100).await.expect("the end") == content[5_999_990..]);
        assert!(read(6_000_000, 100).await.expect("nothing").is_empty());
        let error = client
            .read("/Data/none", 0, 10, &patience())
            .await
            .expect_err("no such file");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    });
}

#[test]
fn only_the_content_that_is_meant_is_deleted() {
    let stand_in = StandIn::start(Options::default());
    stand_in.put_file("/Data/a", b"first");
    run(async {
        let client = client(&stand_in);
        let rev = async || {
            let entry = client
                .stat("/Data/a", &patience())
                .await
                .expect("an answer")
                .expect("a file");
            entry.file.expect("a file").rev
        };
        let first = rev().await;
        stand_in.remove("/Data/a");
        stand_in.put_file("/Data/a", b"second");
        client
            .delete("/Data/a", &first, &patience())
            .await
            .expect_err("another content");
        assert_eq!(stand_in.content("/Data/a"), b"second");
        assert!(
            client
                .delete("/Data/a", &rev().await, &patience())
                .await
                .expect("deleted")
        );
        assert!(
            !client
                .delete("/Data/a", &first, &patience())
                .await
                .expect("gone already")
        );
        assert_eq!(
            client
                .stat("/Data/a", &patience())
                .await
                .expect("an answer"),
            None
        );
    });
}

#[test]
fn free_space_is_what_is_left_of_the_quota() {
    let stand_in = StandIn::start(Options {
        quota: 1_000,
        ..Options::default()
    });
    stand_in.put_file("/a", &[1; 300]);
    run(async {
        let space = client(&stand_in).space(&patience()).await;
        let told = space.expect("an answer");
        assert_eq!(told.free, Some(700));
        assert_eq!((told.used, told.total), (Some(300), Some(1_000)));
    });
}
