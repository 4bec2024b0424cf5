"""Rate limits: policy, limiters in process and in Redis, enforcement."""
