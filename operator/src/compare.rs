//! Whether a live object already is as wanted; pure.
//! Rule: what the server adds or writes in another form is no difference, everything else is.

use serde_json::Value;

use crate::quantity::quantity;

/// True when `live` already says everything `wanted` says. The server adds fields of its own, so more is no difference;
/// what we stopped wanting shows in the annotation with the hash of what was applied last.
pub fn contains(live: &Value, wanted: &Value) -> bool {
    contains_by(live, wanted, |live, wanted| live == wanted)
}

fn contains_by(live: &Value, wanted: &Value, equal: fn(&Value, &Value) -> bool) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, value)| match live.get(key) {
            Some(live) if key == "requests" || key == "limits" => contains_by(live, value, equal_quantities),
            Some(live) => contains_by(live, value, equal),
            None => is_empty(value),
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| contains_by(live, wanted, equal))
        }
        (live, wanted) => equal(live, wanted),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        // The server leaves out what is empty, texts too.
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// The server writes quantities in its own form: `0.5` becomes `500m`, `1024Mi` becomes `1Gi`.
fn equal_quantities(live: &Value, wanted: &Value) -> bool {
    match (live.as_str().and_then(quantity), wanted.as_str().and_then(quantity)) {
        (Some(live), Some(wanted)) => (live - wanted).abs() <= 1e-9 * live.abs(),
        _ => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::contains;
    use serde_json::json;

    #[test]
    fn fields_the_server_added_are_no_difference() {
        let live = json!({"spec": {"replicas": 2, "progressDeadlineSeconds": 600}, "status": {"replicas": 2}});
        assert!(contains(&live, &json!({"spec": {"replicas": 2}})));
    }

    #[test]
    fn a_changed_or_missing_field_is_a_difference() {
        let live = json!({"spec": {"replicas": 3}});
        assert!(!contains(&live, &json!({"spec": {"replicas": 2}})));
        assert!(!contains(&live, &json!({"spec": {"paused": true}})));
    }

    #[test]
    fn an_element_somebody_added_to_a_list_is_a_difference() {
        let live = json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]});
        assert!(!contains(&live, &json!({"env": [{"name": "A", "value": "1"}]})));
    }

    #[test]
    fn a_quantity_in_the_servers_own_form_is_no_difference() {
        let live = json!({"resources": {"requests": {"cpu": "500m", "memory": "1Gi", "storage": "2k"}}});
        let wanted = json!({"resources": {"requests": {"cpu": "0.5", "memory": "1024Mi", "storage": "2000"}}});
        assert!(contains(&live, &wanted));
        assert!(!contains(&live, &json!({"resources": {"requests": {"cpu": "0.6"}}})));
    }

    #[test]
    fn a_number_in_a_name_is_not_a_quantity() {
        assert!(!contains(
            &json!({"env": [{"name": "A", "value": "1"}]}),
            &json!({"env": [{"name": "A", "value": "1000m"}]})
        ));
    }
}
