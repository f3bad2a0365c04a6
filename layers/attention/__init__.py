"""Attention layers, and blocks that use attention.

| file | contents |
| --- | --- |
| `gated_linear` | attention as a recurrence with gates, whose cost is linear in the number of tokens |
| `pooled` | self-attention of a feature map whose keys and values are pooled |
| `recurrent_block` | a transformer block that is applied many times over depth |
| `window` | attention inside windows of neighbouring or of strided pixels |
"""
