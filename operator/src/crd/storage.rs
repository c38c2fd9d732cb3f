//! The volumes of broker and database.
//! Rule: a volume only grows; a wish for more that no volume could follow can be taken back.

use kube::KubeSchema;
use kube::core::Rule;
use serde::{Deserialize, Serialize};

/// A persistent volume of each pod of a part.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.class) == has(oldSelf.class) && (!has(self.class) || self.class == oldSelf.class)")
    .message("storage.class cannot be changed: a volume stays in the class it was made of; create a new StockPipeline with the wanted class"))]
pub struct Storage {
    /// Size as a Kubernetes quantity, for example 10Gi. It may be raised at any time: the volumes grow while the pods run, if their storage
    /// class allows it.
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
        .message("storage.size must be a quantity above 0, for example 10Gi"))]
    pub size: String,
    /// Storage class; the cluster's default unless set. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub class: Option<String>,
}

/// The size of a part's volumes may not be lowered, except to what is asked of them: then none could follow the wish for more.
pub(super) fn never_shrinks(part: &str) -> Rule {
    let wish = format!("self.spec.{part}.storage.size");
    // Whether the wish is a quantity another rule says, in better words.
    let at_least = |other: &str| format!("quantity({wish}).compareTo(quantity({other})) >= 0");
    let present = format!(
        "has(self.status) && has(self.status.parts) && has(self.status.parts.{part}) && has(self.status.parts.{part}.volumeSize)"
    );
    let message = format!(
        "{part}.storage.size cannot be less than it was: a volume only grows; create a new StockPipeline for smaller volumes"
    );
    Rule::new(format!(
        "!isQuantity({wish}) || !isQuantity(oldSelf.spec.{part}.storage.size) || {} || ({present} && {})",
        at_least(&format!("oldSelf.spec.{part}.storage.size")),
        at_least(&format!("self.status.parts.{part}.volumeSize")),
    ))
    .message(message.as_str())
}
