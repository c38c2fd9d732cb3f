//! Whether a live object already is as wanted; pure.
//! Rule: what the server adds or writes in another form is no difference, everything else is.

use serde_json::Value;

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

/// The number a quantity stands for (Kubernetes API conventions, "Quantity").
fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let suffixed = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (digits, factor) = suffixed.unwrap_or((text, 1.0));
    digits.parse::<f64>().ok().map(|number| number * factor)
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
