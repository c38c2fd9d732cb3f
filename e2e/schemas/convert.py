"""Turns Kubernetes' OpenAPI document into the files that kubeconform reads: one per kind, and the definitions they share.

    convert.py SWAGGER FOLDER

Strict: what a definition does not name is refused.
"""
import json
import pathlib
import sys

swagger, folder = sys.argv[1], pathlib.Path(sys.argv[2])
definitions = json.loads(pathlib.Path(swagger).read_text())["definitions"]
for name, definition in definitions.items():
    if "properties" in definition:
        definition.setdefault("additionalProperties", False)
    if definition.get("format") == "int-or-string":
        definitions[name] = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
(folder / "definitions.json").write_text(json.dumps({"definitions": definitions}))
for name, definition in definitions.items():
    for kind in definition.get("x-kubernetes-group-version-kind", []):
        # kubeconform's {{.ResourceKind}}{{.KindSuffix}}: of a group only its first word, and none for the core.
        words = [kind["kind"], kind["group"].split(".")[0], kind["version"]]
        schema = {"$ref": f"definitions.json#/definitions/{name}"}
        (folder / ("-".join(filter(None, words)).lower() + ".json")).write_text(json.dumps(schema))
