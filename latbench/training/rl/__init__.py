"""Reinforcement learning: the stage `rl`, whose batches are answers that the model itself has just drawn.

    rollouts.py        draws G answers to each of a number of questions with the one decoding loop, scores them with
                       the task's checker, keeps groups of unequal rewards, and hands out the groups of each update
    rewards.py         what an answer is worth; advantages.py: the same within its group
    action_tensors.py  rollouts as a batch of tensors; log-probabilities of text
    surrogate.py       the clipped surrogate, its averages, the divergence from the reference
    policy_trainer.py  the stage on `transformers.Trainer`: resume points, held-out questions, figures for the log

How a method plugs in: it implements `Method.action_log_probs(batch)`, and everything else is shared.

- The batch (`action_tensors.action_batch`) holds whole sequences: prompt, then all that was fed. Where
  `batch.is_latent` is true an embedding belongs in place of the token's: the method makes it from `batch.records`, what
  its rule left in `Step.latent` at each latent step (`LatentAction.record`), row by row in order of the steps.
- `batch.scored` marks the positions whose next item is an action; `batch.actions.kinds` says of each, in row-major
  order, whether that is a token (`ids` has it), the close marker or a latent step. The method returns one
  log-probability and one entropy for each of them, with gradients for the former. `action_tensors.text_log_probs` does
  it for tokens and close markers; a method of text alone calls `action_tensors.score_text` and is done.
- A method whose latent steps have a density sets `scores_latents = True` and handles them too; where it is False latent
  steps are fed but are no actions.
- `rl_stage` says what is trained, `rollout_rule` and `rollout_prompt` change how answers are drawn, `check_rl` refuses
  settings, `before_rollout` and `after_rollout` are called around a rollout, before its updates (what they change is
  named in `Stage.changed`), `rl_figures` names figures for the log that `ActionLogProbs.figures` then holds.

The log-probabilities that the ratio compares to are those of the same function before the first update. What the
decoding loop said of the same choices is kept too: the difference is rounding, and the log says how large it was.
"""
