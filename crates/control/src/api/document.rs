//! The OpenAPI document, made from the table of routes: what is served is
//! what is documented.

use super::routes::{self, Access};
use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, Content, OpenApi, Ref, RefOr, Response, ResponseBuilder};

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Aether",
        description = "Run untrusted code in microVMs. Errors are RFC 9457 problem documents with code, remedy and \
            retryable; every /v1 route can also answer 401, 403, 429, 500 and 503. See docs/api.md.",
        license(name = "Apache-2.0"),
    ),
    components(schemas(aether_core::Problem))
)]
struct Base;

/// The document as served at `/openapi.json` and checked in at
/// `docs/openapi.json`.
pub fn openapi() -> OpenApi {
    let mut document = Base::openapi();
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    let components = document.components.get_or_insert_with(Components::new);
    let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API key")).build();
    components.add_security_scheme("api_key", SecurityScheme::Http(key));
    for mut entry in routes::table() {
        for (name, schema) in entry.schemas.drain(..) {
            components.schemas.entry(name).or_insert(schema);
        }
        for (path, item) in entry.document.paths {
            let merged = document.paths.paths.entry(documented(&path)).or_default();
            merge(merged, item, entry.rule.access);
        }
    }
    document
}

/// `{*name}` is axum's word for a name with slashes.
pub(super) fn documented(path: &str) -> String {
    path.replace("{*", "{")
}

fn merge(into: &mut PathItem, from: PathItem, access: Access) {
    let PathItem { get, put, post, delete, head, patch, options, trace, .. } = from;
    let slots = [
        (&mut into.get, get),
        (&mut into.put, put),
        (&mut into.post, post),
        (&mut into.delete, delete),
        (&mut into.head, head),
        (&mut into.patch, patch),
        (&mut into.options, options),
        (&mut into.trace, trace),
    ];
    for (slot, operation) in slots {
        let Some(mut operation) = operation else { continue };
        let needs = match access {
            Access::Open | Access::Metrics => None,
            Access::Caller => Some("Needs any key or token.".to_owned()),
            Access::Needs(permission) => Some(format!("Needs `{}`.", permission.as_str())),
        };
        if let Some(needs) = needs {
            operation.security = Some(vec![SecurityRequirement::new("api_key", Vec::<String>::new())]);
            operation.description = Some(match operation.description.take() {
                Some(text) => format!("{text}\n\n{needs}"),
                None => needs,
            });
        }
        problems(&mut operation);
        *slot = Some(operation);
    }
}

/// Problems have a type of their own, and every operation may answer one.
fn problems(operation: &mut Operation) {
    let problem = || Content::new(Some(Ref::from_schema_name("Problem")));
    let responses = &mut operation.responses.responses;
    for response in responses.values_mut() {
        let RefOr::T(response) = response else { continue };
        let of_problem = response.content.get(JSON).and_then(|content| content.schema.as_ref());
        if matches!(of_problem, Some(RefOr::Ref(schema)) if schema.ref_location.ends_with("/Problem")) {
            response.content.shift_remove(JSON);
            response.content.insert(PROBLEM.to_owned(), problem());
        }
    }
    let any = Response::new("Not done: see `code` and `remedy`");
    let any = ResponseBuilder::from(any).content(PROBLEM, problem()).build();
    responses.entry("default".to_owned()).or_insert(RefOr::T(any));
}
