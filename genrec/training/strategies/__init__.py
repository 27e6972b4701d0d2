"""How several processes train one model: DDP, FSDP2, DeepSpeed, expert parallelism."""
