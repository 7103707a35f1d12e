"""Is a node what its operator's schema says: operands, results, types of attributes?

ONNX's own checker does this for whole files; here it is for one node without its weights, before
anything asks the node for an attribute or an operand that it might not have.
"""

from __future__ import annotations

from typing import Any

import onnx

_KINDS = onnx.AttributeProto.AttributeType
_FORMS = onnx.defs.OpSchema.FormalParameterOption


def problem(node: onnx.NodeProto, schema: Any) -> str | None:
    """What is wrong with `node`, by its operator's schema; None: nothing."""
    for found, least, most, what in (
        (node.input, schema.min_input, schema.max_input, "inputs"),
        (node.output, schema.min_output, schema.max_output, "outputs"),
    ):
        if not least <= len(found) <= most:
            return f"has {len(found)} {what}, {least} to {most} are possible"
    for name, formal in zip(node.input, schema.inputs, strict=False):
        if not name and formal.option == _FORMS.Single:
            return f"has no {formal.name}"
    if schema.inputs and schema.inputs[-1].option == _FORMS.Variadic:
        # ONNX Runtime reads each of them without looking, and dies of one that is not there.
        for index, name in enumerate(node.input[len(schema.inputs) - 1 :]):
            if not name:
                return f"has no {schema.inputs[-1].name} {index}"
    if schema.min_output > 0 and not node.output[0]:
        return f"has no {schema.outputs[0].name}"
    given: set[str] = set()
    for attribute in node.attribute:
        if attribute.name in given:
            return f"has the attribute {attribute.name} twice"
        given.add(attribute.name)
        known = schema.attributes.get(attribute.name)
        kind = _KINDS.Name(attribute.type) if attribute.type in _KINDS.values() else "?"
        if known is not None and kind != known.type.name:
            return f"has the attribute {attribute.name} of type {kind}, not {known.type.name}"
    missing = [n for n, a in schema.attributes.items() if a.required and n not in given]
    return f"lacks the attribute {missing[0]}" if missing else None
