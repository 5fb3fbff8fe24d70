"""Addresses of the pages."""

from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from experiments.web.actions import ACTION_ROLES, ACTIONS, act
from experiments.web.create import create
from experiments.web.detail import detail, newest
from experiments.web.exported import report_file
from experiments.web.home import home
from experiments.web.pages import page_for, public_page

urlpatterns = [
    path("login/", public_page(LoginView.as_view(redirect_authenticated_user=True)), name="login"),
    path("logout/", public_page(LogoutView.as_view()), name="logout"),
    path("", home, name="home"),
    path("experiments/new/", create, name="new"),
    path("experiments/<int:pk>/", detail, name="experiment"),
    path("experiments/<int:pk>/newest/", newest, name="newest"),
    path("experiments/<int:pk>/report.html", report_file, name="report_file"),
    *(
        path(f"experiments/<int:pk>/{action}/", page_for(ACTION_ROLES[action])(act), {"action": action}, name=action)
        for action in ACTIONS
    ),
]
