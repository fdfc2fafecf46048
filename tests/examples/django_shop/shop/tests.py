"""Tests as in any Django project."""

from django.db import IntegrityError
from django.test import TestCase, TransactionTestCase

from shop.models import Order


class OrderTest(TestCase):
    """Each test is a transaction that is rolled back."""

    def test_tags_are_found(self):
        """A query that SQLite does not know."""
        Order.objects.create(item="tea", tags=["hot"])
        self.assertTrue(Order.objects.filter(tags__contains=["hot"]).exists())

    def test_an_item_is_ordered_once(self):
        """The other test's order is not here, and the database keeps the rule."""
        Order.objects.create(item="tea")
        with self.assertRaises(IntegrityError):
            Order.objects.create(item="tea")


class CommittedOrderTest(TransactionTestCase):
    """With commits; Django empties the tables after each test."""

    def test_a_committed_order(self):
        """It is there."""
        Order.objects.create(item="tea")
        self.assertEqual(1, Order.objects.count())
