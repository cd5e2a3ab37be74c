"""Agents as clients name and read them."""

from datetime import datetime

from api.values import Answer, Body
from memory.domain.agents import AgentRole


class PutAgent(Body):
    role: AgentRole


class AgentAnswer(Answer):
    agent_id: str
    role: AgentRole
    added_at: datetime
