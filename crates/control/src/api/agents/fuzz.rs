//! Query strings of lists: filters, times, pages.

use super::*;
use crate::api::extract::Params;
use axum::extract::Query;

#[test]
fn fuzz() {
    let words = &[
        "status=",
        "state=running",
        "label=a%3Db",
        "label=a=b&",
        "metadata=",
        "image=",
        "docker.io/library/",
        "&page=",
        "per_page=",
        "cursor=",
        "name_prefix=",
        "created_after=",
        "created_before=5m",
        "%00",
        "%ff",
        "+",
        "2026-01-01T00:00:00Z",
    ];
    let now = Timestamp::from_unix_ms(1_000_000_000_000);
    aether_fuzz::target("list_query").max_len(60 << 10).memory(32 << 20).words(words).run(|input| {
        let mut uri = b"/v1/agents?".to_vec();
        uri.extend_from_slice(input);
        let Ok(uri) = http::Uri::try_from(uri) else { return };
        let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(&uri) else { return };
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut params = Params::of(&pairs);
        let (filter, page) = list_request(&mut params, now);
        if let Err(error) = params.done() {
            let text = serde_json::to_string(&error.problem).expect("a problem is JSON");
            assert!(text.len() <= 64 << 10, "{} bytes of errors", text.len());
            return;
        }
        assert!((1..=100).contains(&page.limit) && page.page.is_none_or(|n| n >= 1));
        // Each is a term of one SQL statement, whose depth SQLite bounds at 1000.
        let terms = filter.labels.len() + filter.metadata.len() + filter.status.len() + filter.images.len();
        assert!(terms <= 400, "{terms} terms");
        assert!(filter.labels.keys().chain(filter.metadata.keys()).all(|key| !key.is_empty()));
    });
}
