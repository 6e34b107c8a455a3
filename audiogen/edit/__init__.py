"""Editing and control: functions over a Pipeline that build a denoiser, or the noise that it starts from."""
