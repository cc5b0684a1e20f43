"""The map of reinforcement learning algorithms: what each learns, from what, and where this book explains it.

Facts alone, each with the key of its source in the book's bibliography; nothing about how they are drawn.
"""

from typing import Any, Literal, NamedTuple

Family = Literal["bandits", "values", "policy", "actor-critic", "models", "imitation", "offline", "agents"]

FAMILIES: dict[Family, str] = {
    "bandits": "Bandits",
    "values": "Values",
    "policy": "Policy gradient",
    "actor-critic": "Actor-critic",
    "models": "Models, planning",
    "imitation": "Imitation",
    "offline": "Fixed data",
    "agents": "Several agents",
}
"""Rows of the map."""


class Algorithm(NamedTuple):
    """One algorithm.

    model: whether it needs a model of the world: free or based. learns: what it keeps: value, policy or both.
    data: on (its own, fresh), off (anybody's), fixed (a data set, never more); none where a model gives it all.
    actions: which action spaces: discrete, continuous or both. parents: what it grew from. language: what it does for
    language models, empty if nothing in particular. section: of the book. cite: key in references.bib.
    """

    name: str
    year: int
    family: Family
    model: Literal["free", "based"]
    learns: Literal["value", "policy", "both"]
    data: Literal["on", "off", "fixed", "none"]
    actions: Literal["discrete", "continuous", "both"]
    idea: str
    section: str
    cite: str
    parents: tuple[str, ...] = ()
    language: str = ""


# fmt: off
ALGORITHMS: tuple[Algorithm, ...] = (
    Algorithm("Thompson sampling", 1933, "bandits", "free", "value", "on", "discrete",
              "Draw each arm's worth from what is believed of it; pull the best draw.",
              "5.1.4", "thompson1933likelihood"),
    Algorithm("UCB1", 2002, "bandits", "free", "value", "on", "discrete",
              "Average plus a width that shrinks with pulls: optimism where little is known.",
              "5.1.4", "auer2002finite"),
    Algorithm("UCT", 2006, "models", "based", "value", "none", "discrete",
              "A bandit at every node of a search tree; the tree grows where it looks good.", "8.2.1", "kocsis2006uct",
              ("UCB1",), "Search over steps of reasoning, each node a prefix."),
    Algorithm("Value iteration", 1957, "values", "based", "value", "none", "discrete",
              "Apply the Bellman optimality equation until nothing changes.", "5.2.5", "sutton2018rl"),
    Algorithm("TD(λ)", 1988, "values", "free", "value", "on", "discrete",
              "Move a value towards the reward plus the next value; λ mixes longer returns in.",
              "5.3.3", "sutton2018rl"),
    Algorithm("SARSA", 1994, "values", "free", "value", "on", "discrete",
              "TD for Q, with the action that the policy does take next.", "5.4.1", "sutton2018rl", ("TD(λ)",)),
    Algorithm("Q-learning", 1992, "values", "free", "value", "off", "discrete",
              "TD for Q*, with the best next action, whoever acts.", "5.4.1", "watkins1992q",
              ("TD(λ)", "Value iteration")),
    Algorithm("DQN", 2013, "values", "free", "value", "off", "discrete",
              "Q-learning with a network, a replay buffer and, later, a frozen target network.", "5.4.2", "mnih2013dqn",
              ("Q-learning",)),
    Algorithm("Double DQN", 2015, "values", "free", "value", "off", "discrete",
              "One network selects the action, the other says its worth: less overestimation.", "5.4.4",
              "vanhasselt2015ddqn", ("DQN",)),
    Algorithm("Dueling DQN", 2015, "values", "free", "value", "off", "discrete",
              "A network split into V and advantage.", "5.4.4", "wang2015dueling", ("DQN",)),
    Algorithm("C51", 2017, "values", "free", "value", "off", "discrete",
              "Learn the distribution of the return on 51 fixed atoms, not its mean alone.",
              "5.8.3", "bellemare2017c51",
              ("DQN",)),
    Algorithm("QR-DQN", 2017, "values", "free", "value", "off", "discrete",
              "Learn quantiles of the return: the atoms move, not their weights.", "5.8.3", "dabney2017qr", ("C51",)),
    Algorithm("Rainbow", 2017, "values", "free", "value", "off", "discrete",
              "Six improvements of DQN in one agent.", "5.4.4", "hessel2017rainbow",
              ("Double DQN", "Dueling DQN", "C51")),
    Algorithm("REINFORCE", 1992, "policy", "free", "policy", "on", "both",
              "Make what was followed by high return more likely.", "5.5.3", "williams1992reinforce", (),
              "With the whole answer as one action: the root of RLOO and GRPO."),
    Algorithm("TRPO", 2015, "policy", "free", "policy", "on", "both",
              "The largest step that keeps the KL divergence from the old policy small.", "6.3.2", "schulman2015trpo",
              ("REINFORCE",)),
    Algorithm("RLOO", 2024, "policy", "free", "policy", "on", "discrete",
              "REINFORCE whose baseline is the mean reward of the other answers to the same prompt.", "5.5.3",
              "ahmadian2024rloo", ("REINFORCE",), "RLHF without a critic."),
    Algorithm("GRPO", 2024, "policy", "free", "policy", "on", "discrete",
              "PPO's clipped ratio, with advantages from a group of answers in place of a critic.", "6.4.1",
              "shao2024deepseekmath", ("PPO",), "Reasoning models; DeepSeek-R1 was trained with it."),
    Algorithm("DAPO", 2025, "policy", "free", "policy", "on", "discrete",
              "GRPO with a wider upper clip, resampled groups and a loss per token.", "8.3.3", "yu2025dapo", ("GRPO",),
              "Long chains of thought with verified answers."),
    Algorithm("GSPO", 2025, "policy", "free", "policy", "on", "discrete",
              "GRPO whose ratio and clip belong to whole sequences.", "8.3.3", "zheng2025gspo", ("GRPO",),
              "Large mixture-of-experts models, the Qwen3 family among them."),
    Algorithm("A3C, A2C", 2016, "actor-critic", "free", "both", "on", "both",
              "Parallel actors; a critic's advantage in place of the return.",
              "6.2.2", "mnih2016a3c", ("REINFORCE", "TD(λ)")),
    Algorithm("DPG", 2014, "actor-critic", "free", "both", "off", "continuous",
              "The gradient of Q through a deterministic action.", "6.5.2", "silver2014dpg", ("Q-learning",)),
    Algorithm("DDPG", 2015, "actor-critic", "free", "both", "off", "continuous",
              "DPG with DQN's networks and replay.", "6.5.2", "lillicrap2015ddpg", ("DPG", "DQN")),
    Algorithm("TD3", 2018, "actor-critic", "free", "both", "off", "continuous",
              "DDPG with two critics, the smaller one believed, and a slower actor.",
              "6.5.2", "fujimoto2018td3", ("DDPG",)),
    Algorithm("SAC", 2018, "actor-critic", "free", "both", "off", "continuous",
              "Reward plus entropy, learned off-policy with a stochastic actor.",
              "6.2.2", "haarnoja2018sac", ("DDPG",)),
    Algorithm("PPO", 2017, "actor-critic", "free", "both", "on", "both",
              "Several steps on one batch, the probability ratio clipped.",
              "6.3.5", "schulman2017ppo", ("TRPO", "A3C, A2C"),
              "RLHF as InstructGPT did it: four models, one reward at the end."),
    Algorithm("VAPO", 2025, "actor-critic", "free", "both", "on", "discrete",
              "PPO made fit for long answers: a pretrained critic, and a λ that grows with the length.", "8.3.3",
              "yue2025vapo", ("PPO",), "Long chains of thought, with a critic."),
    Algorithm("Dyna", 1991, "models", "based", "value", "off", "discrete",
              "Learn from real steps, and from steps that a learned model imagines.", "5.8.1", "sutton2018rl",
              ("TD(λ)",)),
    Algorithm("AlphaZero", 2017, "models", "based", "both", "on", "discrete",
              "Tree search improves the policy; the network learns from the search, by self-play.", "8.2.1",
              "silver2017alphazero", ("UCT",), "A pattern for search and self-play in reasoning."),
    Algorithm("MBPO", 2019, "models", "based", "both", "off", "continuous",
              "Short imagined rollouts from real states feed SAC.", "5.8.1", "janner2019mbpo", ("Dyna", "SAC")),
    Algorithm("DreamerV3", 2023, "models", "based", "both", "off", "both",
              "A world model in latent space; actor and critic learn in its dreams.", "5.8.1", "hafner2023dreamerv3",
              ("Dyna",)),
    Algorithm("Inverse RL", 2000, "imitation", "based", "value", "fixed", "discrete",
              "Find the reward under which the expert acts best.", "5.7.3", "ng2000irl", (),
              "Reward models are its relatives: a reward learned from what people prefer."),
    Algorithm("DAgger", 2010, "imitation", "free", "policy", "on", "both",
              "Let the learner act, ask the expert what it should have done, learn from that.",
              "5.7.2", "ross2010dagger",
              (), "On-policy distillation: the student writes, the teacher corrects each token."),
    Algorithm("GAIL", 2016, "imitation", "free", "both", "on", "both",
              "A discriminator tells expert from learner; fooling it is the reward.", "5.7.4", "ho2016gail",
              ("Inverse RL", "TRPO")),
    Algorithm("CQL", 2020, "offline", "free", "value", "fixed", "both",
              "Push down Q where the data are silent.", "5.1.6", "kumar2020cql", ("Q-learning", "SAC")),
    Algorithm("IQL", 2021, "offline", "free", "both", "fixed", "both",
              "Never ask Q about actions outside the data: expectiles in place of the maximum.", "5.1.6",
              "kostrikov2021iql", ("Q-learning",)),
    Algorithm("DPO", 2023, "offline", "free", "policy", "fixed", "discrete",
              "The optimum of reward minus KL, solved for the policy: a loss on pairs of answers.", "3.1.3",
              "rafailov2023dpo", ("PPO",), "Preference training without a reward model and without sampling."),
    Algorithm("VDN", 2017, "agents", "free", "value", "off", "discrete",
              "The team's Q is the sum of its members'.", "5.6.3", "sunehag2017vdn", ("DQN",)),
    Algorithm("QMIX", 2018, "agents", "free", "value", "off", "discrete",
              "The team's Q is a monotonic mixture of its members'.", "5.6.3", "rashid2018qmix", ("VDN",)),
    Algorithm("MADDPG", 2017, "agents", "free", "both", "off", "both",
              "DDPG whose critics see everybody while they learn.", "5.6.3", "lowe2017maddpg", ("DDPG",)),
    Algorithm("MAPPO", 2021, "agents", "free", "both", "on", "both",
              "PPO with one critic for the whole team.", "5.6.3", "yu2021mappo", ("PPO",)),
)
# fmt: on

PAGES: dict[str, str] = {
    "3.1": "ch03_dpo/core_idea",
    "5.1": "ch05_rl/core",
    "5.2": "ch05_rl/value_functions",
    "5.3": "ch05_rl/temporal_difference",
    "5.4": "ch05_rl/value_based",
    "5.5": "ch05_rl/policy_gradient",
    "5.6": "ch05_rl/multi_agent",
    "5.7": "ch05_rl/imitation",
    "5.8": "ch05_rl/advanced",
    "6.2": "ch06_policy_optimization/advantage",
    "6.3": "ch06_policy_optimization/ppo",
    "6.4": "ch06_policy_optimization/grpo",
    "6.5": "ch06_policy_optimization/deterministic",
    "8.2": "ch08_reasoning/search",
    "8.3": "ch08_reasoning/reinforcement_learning",
}
"""Where the book holds a section, under book/."""


def address(section: str) -> str:
    """The page and the place on it, from the book's root: `book/ch05_rl/core.html#sec-5-1-4`."""
    page = PAGES[".".join(section.split(".")[:2])]
    return f"book/{page}.html#sec-{section.replace('.', '-')}"


def data() -> dict[str, Any]:
    """What the explorer algorithm_map draws: the algorithms by year, and the rows."""
    found = sorted(ALGORITHMS, key=lambda one: (one.year, one.name))
    return {
        "families": [{"key": key, "title": title} for key, title in FAMILIES.items()],
        "algorithms": [
            one._asdict() | {"parents": list(one.parents), "address": address(one.section)} for one in found
        ],
        "start": {"name": "GRPO"},
    }
