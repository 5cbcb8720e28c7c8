"""Your model, your loop: three lines make it train in few bits, and it saves as plain weights."""

import tempfile

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import pennyweight as pw

config = LlamaConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(config)

conversion = pw.quantize(model, "penny4")  # 1: in place
optimizer = pw.optim.AdamW(model.parameters(), lr=3e-3, m="dynamic_sym4", v="log4")  # 2: moments in 4 bits
print(conversion)

text = torch.tensor(list(b"the quick brown fox jumps over the lazy dog; " * 40))
for step in range(30):
    offsets = torch.arange(8) * 16 + step
    tokens = torch.stack([text[offset : offset + 65] for offset in offsets])
    logits = model(input_ids=tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step % 10 == 9:
        print(f"step {step + 1}: loss {loss.item():.3f}")

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)  # 3: codes times scales, as plain tensors
    plain = AutoModelForCausalLM.from_pretrained(folder)  # no Pennyweight needed from here on
    print("loads in plain transformers:", type(plain).__name__)
